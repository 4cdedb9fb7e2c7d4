package main

import (
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/util/retry"
)

// Typed clients: the same in JSON and in protobuf.
func typed(s *suite) {
	configMaps(s)
	pages(s)
	deployments(s)
	watches(s)
	reviews(s)
}

func configMaps(s *suite) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	created, err := maps.Create(s.ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: map[string]string{"app": "one"}},
		Data:       map[string]string{"a": "1"},
		BinaryData: map[string][]byte{"b": {0, 1, 255}},
	}, metav1.CreateOptions{})
	must(err, "a config map is created")
	check(created.UID != "" && created.ResourceVersion != "" && !created.CreationTimestamp.IsZero(), "it has what a server gives", created)
	got, err := maps.Get(s.ctx, "one", metav1.GetOptions{})
	must(err, "it is read")
	check(got.Data["a"] == "1" && string(got.BinaryData["b"]) == string([]byte{0, 1, 255}), "its data is what was sent", got)
	check(len(got.ManagedFields) == 1 && got.ManagedFields[0].Manager == "selvedge-client-go", "its manager is named", got.ManagedFields)

	_, err = maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{})
	check(apierrors.IsAlreadyExists(err), "a second of its name already exists", err)
	_, err = maps.Get(s.ctx, "absent", metav1.GetOptions{})
	check(apierrors.IsNotFound(err), "an absent one is not found", err)
	_, err = maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "Not A Name"}}, metav1.CreateOptions{})
	check(apierrors.IsInvalid(err) && strings.Contains(err.Error(), "metadata.name"), "a bad name is invalid", err)
	status, _ := err.(apierrors.APIStatus)
	causes := status.Status().Details.Causes
	check(len(causes) == 1 && causes[0].Field == "metadata.name", "the cause names the field", causes)

	stale := got.DeepCopy()
	got.Data["a"] = "2"
	updated, err := maps.Update(s.ctx, got, metav1.UpdateOptions{})
	must(err, "it is updated")
	check(updated.ResourceVersion != stale.ResourceVersion, "its version is another", updated.ResourceVersion)
	_, err = maps.Update(s.ctx, stale, metav1.UpdateOptions{})
	check(apierrors.IsConflict(err), "an update of a stale one is a conflict", err)
	must(retry.RetryOnConflict(retry.DefaultRetry, func() error {
		fresh, err := maps.Get(s.ctx, "one", metav1.GetOptions{})
		if err != nil {
			return err
		}
		fresh.Data["c"] = "3"
		_, err = maps.Update(s.ctx, fresh, metav1.UpdateOptions{})
		return err
	}), "an update is tried again")
	tried, err := maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "tried"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	must(err, "a creation is tried without effect")
	_, err = maps.Get(s.ctx, tried.Name, metav1.GetOptions{})
	check(apierrors.IsNotFound(err), "nothing of it is stored", err)
	other := types.UID("00000000-0000-0000-0000-000000000000")
	err = maps.Delete(s.ctx, "one", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &other}})
	check(apierrors.IsConflict(err), "another uid is not deleted", err)
	must(maps.Delete(s.ctx, "one", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &created.UID}}), "its uid is deleted")
}

func pages(s *suite) {
	secrets := s.client.CoreV1().Secrets(s.namespace)
	for number := range 25 {
		_, err := secrets.Create(s.ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("s-%02d", number), Labels: map[string]string{"parity": []string{"even", "odd"}[number%2]}},
			StringData: map[string]string{"k": "v"},
		}, metav1.CreateOptions{})
		if err != nil {
			must(err, "a secret is created")
		}
	}
	var names []string
	options := metav1.ListOptions{Limit: 7}
	for {
		page, err := secrets.List(s.ctx, options)
		if err != nil {
			must(err, "a page is listed")
		}
		for _, item := range page.Items {
			names = append(names, item.Name)
		}
		if options.Continue = page.Continue; options.Continue == "" {
			break
		}
	}
	check(len(names) == 25 && names[0] == "s-00" && names[24] == "s-24", "pages hold everything once and in order", names)
	odd, err := secrets.List(s.ctx, metav1.ListOptions{LabelSelector: "parity=odd"})
	must(err, "a selection is listed")
	check(len(odd.Items) == 12 && string(odd.Items[0].Data["k"]) == "v", "it holds what it selects", len(odd.Items))
	_, err = secrets.List(s.ctx, metav1.ListOptions{LabelSelector: "a=("})
	check(apierrors.IsBadRequest(err), "a broken selector is a bad request", err)
	must(secrets.DeleteCollection(s.ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "parity"}), "a collection is deleted")
	rest, err := secrets.List(s.ctx, metav1.ListOptions{})
	must(err, "what is left is listed")
	check(len(rest.Items) == 0, "nothing is left", len(rest.Items))
}

func deployment(name string) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			// No pod is started: what a controller would do is not what is looked at.
			Replicas: new(int32),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "registry.example/main:1"}}},
			},
		},
	}
}

func deployments(s *suite) {
	all := s.client.AppsV1().Deployments(s.namespace)
	created, err := all.Create(s.ctx, deployment("web"), metav1.CreateOptions{})
	must(err, "a deployment is created")
	spec := created.Spec
	check(created.Generation == 1 && *spec.RevisionHistoryLimit == 10 && *spec.ProgressDeadlineSeconds == 600, "it has its defaults", spec)
	check(*spec.Strategy.RollingUpdate.MaxSurge == intstr.FromString("25%"), "its strategy has its defaults", spec.Strategy)
	check(spec.Template.Spec.Containers[0].ImagePullPolicy == corev1.PullIfNotPresent, "its containers have theirs", spec.Template.Spec)

	_, err = all.Patch(s.ctx, "web", types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"side","image":"registry.example/side:1"}]}}}}`), metav1.PatchOptions{})
	must(err, "a strategic merge patch is applied")
	patched, err := all.Patch(s.ctx, "web", types.JSONPatchType, []byte(`[{"op":"replace","path":"/spec/paused","value":true}]`), metav1.PatchOptions{})
	check(apierrors.IsInvalid(err) || err == nil, "a JSON patch is answered", err)
	patched, err = all.Patch(s.ctx, "web", types.MergePatchType, []byte(`{"spec":{"paused":true}}`), metav1.PatchOptions{})
	must(err, "a merge patch is applied")
	check(len(patched.Spec.Template.Spec.Containers) == 2 && patched.Spec.Paused && patched.Generation > 1, "both have had their effect", patched.Spec)

	scale, err := all.GetScale(s.ctx, "web", metav1.GetOptions{})
	must(err, "its scale is read")
	scale.Spec.Replicas = 0
	_, err = all.UpdateScale(s.ctx, "web", &autoscalingv1.Scale{ObjectMeta: scale.ObjectMeta, Spec: scale.Spec}, metav1.UpdateOptions{})
	must(err, "its scale is written")

	fresh, err := all.Get(s.ctx, "web", metav1.GetOptions{})
	must(err, "it is read again")
	generation := fresh.Generation
	fresh.Status.ObservedGeneration = generation
	fresh.Status.Conditions = append(fresh.Status.Conditions, appsv1.DeploymentCondition{Type: "Seen", Status: corev1.ConditionTrue})
	fresh.Spec.MinReadySeconds = 99
	fresh, err = all.UpdateStatus(s.ctx, fresh, metav1.UpdateOptions{})
	must(err, "its status is written")
	check(fresh.Spec.MinReadySeconds == 0 && fresh.Generation == generation, "its spec is not", fresh.Spec.MinReadySeconds)

	bad := deployment("bad")
	bad.Spec.Template.Labels = map[string]string{"app": "other"}
	_, err = all.Create(s.ctx, bad, metav1.CreateOptions{})
	check(apierrors.IsInvalid(err) && strings.Contains(err.Error(), "`selector` does not match template `labels`"), "a selector that misses its pods is invalid", err)
	background := metav1.DeletePropagationBackground
	must(all.Delete(s.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &background}), "it is deleted")
}

func watches(s *suite) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	list, err := maps.List(s.ctx, metav1.ListOptions{LabelSelector: "watched"})
	must(err, "a list to watch from")
	options := metav1.ListOptions{LabelSelector: "watched", ResourceVersion: list.ResourceVersion}
	watching, err := maps.Watch(s.ctx, options)
	must(err, "a watch is opened")
	defer watching.Stop()
	object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "seen", Labels: map[string]string{"watched": "yes"}}}
	object, err = maps.Create(s.ctx, object, metav1.CreateOptions{})
	must(err, "what is watched is created")
	object.Data = map[string]string{"a": "b"}
	object, err = maps.Update(s.ctx, object, metav1.UpdateOptions{})
	must(err, "and updated")
	object.Labels = nil
	_, err = maps.Update(s.ctx, object, metav1.UpdateOptions{})
	must(err, "and leaves the selection")
	for _, expected := range []watch.EventType{watch.Added, watch.Modified, watch.Deleted} {
		event := <-watching.ResultChan()
		check(event.Type == expected, fmt.Sprintf("the watch shows %s", expected), event)
	}
	_, err = maps.Watch(s.ctx, metav1.ListOptions{ResourceVersion: "not-a-number"})
	check(err != nil, "a version that is none is rejected", err)
	must(maps.Delete(s.ctx, "seen", metav1.DeleteOptions{}), "it is deleted")
}

func reviews(s *suite) {
	review, err := s.client.AuthorizationV1().SelfSubjectAccessReviews().Create(s.ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "delete", Resource: "nodes"},
		},
	}, metav1.CreateOptions{})
	must(err, "a review of oneself is answered")
	check(review.Status.Allowed, "an administrator may do everything", review.Status)
	version, err := s.client.Discovery().ServerVersion()
	must(err, "the version is read")
	check(version.Major == "1", "it is a Kubernetes", version)
	_, resources, err := s.client.Discovery().ServerGroupsAndResources()
	must(err, "all groups are discovered")
	check(len(resources) > 5, "there are resources", len(resources))
}
