package main

import (
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	appsapply "k8s.io/client-go/applyconfigurations/apps/v1"
	coreapply "k8s.io/client-go/applyconfigurations/core/v1"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
)

// Server-side apply by typed configurations.
func apply(s *suite) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	one, two := metav1.ApplyOptions{FieldManager: "one"}, metav1.ApplyOptions{FieldManager: "two"}
	configuration := func(data map[string]string) *coreapply.ConfigMapApplyConfiguration {
		return coreapply.ConfigMap("settings", s.namespace).WithData(data)
	}
	created, err := maps.Apply(s.ctx, configuration(map[string]string{"a": "1", "b": "1"}), one)
	must(err, "an absent object is created by apply")
	again, err := maps.Apply(s.ctx, configuration(map[string]string{"a": "1", "b": "1"}), one)
	must(err, "the same is applied again")
	check(again.ResourceVersion == created.ResourceVersion, "nothing has changed", again.ResourceVersion)
	_, err = maps.Apply(s.ctx, configuration(map[string]string{"a": "2"}), two)
	check(apierrors.IsConflict(err) && strings.Contains(err.Error(), `conflict with "one": .data.a`), "another's field is a conflict", err)
	both, err := maps.Apply(s.ctx, configuration(map[string]string{"a": "1", "c": "2"}), two)
	must(err, "an equal value is shared")
	check(both.Data["b"] == "1" && both.Data["c"] == "2", "each keeps what is its own", both.Data)
	forced, err := maps.Apply(s.ctx, configuration(map[string]string{"a": "2", "c": "2"}), metav1.ApplyOptions{FieldManager: "two", Force: true})
	must(err, "a conflict is forced")
	check(forced.Data["a"] == "2", "the field has another owner", forced.Data)
	less, err := maps.Apply(s.ctx, configuration(nil), one)
	must(err, "an owner applies less")
	_, hasB := less.Data["b"]
	check(!hasB && less.Data["a"] == "2" && less.Data["c"] == "2", "what only it had is removed", less.Data)

	deployments := s.client.AppsV1().Deployments(s.namespace)
	labels := map[string]string{"app": "web"}
	web := func(containers ...*coreapply.ContainerApplyConfiguration) *appsapply.DeploymentApplyConfiguration {
		return appsapply.Deployment("web", s.namespace).WithSpec(appsapply.DeploymentSpec().WithReplicas(0).
			WithSelector(metaapply.LabelSelector().WithMatchLabels(labels)).
			WithTemplate(coreapply.PodTemplateSpec().WithLabels(labels).WithSpec(coreapply.PodSpec().WithContainers(containers...))))
	}
	container := func(name, image string) *coreapply.ContainerApplyConfiguration {
		return coreapply.Container().WithName(name).WithImage(image)
	}
	_, err = deployments.Apply(s.ctx, web(container("main", "registry.example/main:1"), container("side", "registry.example/side:1")), one)
	must(err, "a deployment is applied")
	changed, err := deployments.Apply(s.ctx, web(container("main", "registry.example/main:2")), one)
	must(err, "and changed")
	containers := changed.Spec.Template.Spec.Containers
	check(len(containers) == 1 && containers[0].Image == "registry.example/main:2", "lists are merged by key", containers)
	extracted, err := appsapply.ExtractDeployment(changed, "one")
	must(err, "what a manager owns is extracted")
	check(*extracted.Spec.Replicas == 0 && *extracted.Spec.Template.Spec.Containers[0].Name == "main", "it is what was applied", extracted.Spec)
	must(deployments.Delete(s.ctx, "web", metav1.DeleteOptions{}), "it is deleted")
}
