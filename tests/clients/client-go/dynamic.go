package main

import (
	"context"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
)

type object = map[string]any

var definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}

func definition(plural, kind, group string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: object{
		"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": object{"name": plural + "." + group},
		"spec": object{
			"group": group, "scope": "Namespaced",
			"names": object{"plural": plural, "singular": plural[:len(plural)-1], "kind": kind, "listKind": kind + "List"},
			"versions": []any{object{
				"name": "v1", "served": true, "storage": true,
				"subresources": object{"status": object{}, "scale": object{"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
				"schema": object{"openAPIV3Schema": object{"type": "object", "properties": object{
					"spec": object{"type": "object", "properties": object{
						"size":  object{"type": "integer", "minimum": int64(1), "default": int64(3)},
						"color": object{"type": "string", "enum": []any{"red", "green"}},
					}},
					"status": object{"type": "object", "properties": object{"size": object{"type": "integer"}}},
				}}},
			}},
		},
	}}
}

// Clients that know no types: of a kind that was not there when this program was written.
func dynamicClients(s *suite) {
	client, err := dynamic.NewForConfig(s.config)
	must(err, "a dynamic client is made")
	group := s.namespace + ".example.com"
	_, err = client.Resource(definitions).Create(s.ctx, definition("widgets", "Widget", group), metav1.CreateOptions{})
	must(err, "a definition is created")
	defer func() {
		must(client.Resource(definitions).Delete(s.ctx, "widgets."+group, metav1.DeleteOptions{}), "the definition is deleted")
	}()

	var mapping *meta.RESTMapping
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.client.Discovery()))
	err = wait.PollUntilContextTimeout(s.ctx, 50*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		mapper.Reset()
		var err error
		mapping, err = mapper.RESTMapping(schema.GroupKind{Group: group, Kind: "Widget"})
		return err == nil, nil
	})
	must(err, "its kind is discovered")
	widgets := client.Resource(mapping.Resource).Namespace(s.namespace)
	widget := &unstructured.Unstructured{Object: object{
		"apiVersion": group + "/v1", "kind": "Widget", "metadata": object{"name": "w"}, "spec": object{"color": "red", "unknown": "x"},
	}}
	created, err := widgets.Create(s.ctx, widget, metav1.CreateOptions{})
	must(err, "a custom object is created")
	size, _, _ := unstructured.NestedInt64(created.Object, "spec", "size")
	_, hasUnknown, _ := unstructured.NestedString(created.Object, "spec", "unknown")
	check(size == 3 && !hasUnknown, "it has its default and no unknown field", created.Object["spec"])
	_, err = widgets.Patch(s.ctx, "w", types.MergePatchType, []byte(`{"spec":{"color":"blue"}}`), metav1.PatchOptions{})
	check(apierrors.IsInvalid(err), "a value that its schema does not know is invalid", err)
	_, err = widgets.Patch(s.ctx, "w", types.StrategicMergePatchType, []byte(`{"spec":{"color":"green"}}`), metav1.PatchOptions{})
	check(apierrors.IsUnsupportedMediaType(err), "a custom object has no strategic merge", err)
	_, err = widgets.Patch(s.ctx, "w", types.MergePatchType, []byte(`{"status":{"size":2}}`), metav1.PatchOptions{}, "status")
	must(err, "its status is patched")
	got, err := widgets.Get(s.ctx, "w", metav1.GetOptions{})
	must(err, "it is read")
	status, _, _ := unstructured.NestedInt64(got.Object, "status", "size")
	check(status == 2 && got.GetGeneration() == 1, "its status is there and its generation is not another", got.Object)

	scales := scale.New(s.client.Discovery().RESTClient(), mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(s.client.Discovery()))
	scaled, err := scales.Scales(s.namespace).Get(s.ctx, mapping.Resource.GroupResource(), "w", metav1.GetOptions{})
	must(err, "its scale is read")
	check(scaled.Spec.Replicas == 3 && scaled.Status.Replicas == 2, "by the paths of the definition", scaled)
	scaled.Spec.Replicas = 5
	_, err = scales.Scales(s.namespace).Update(s.ctx, mapping.Resource.GroupResource(), scaled, metav1.UpdateOptions{})
	must(err, "its scale is written")

	names, err := metadata.NewForConfig(s.config)
	must(err, "a metadata client is made")
	list, err := names.Resource(mapping.Resource).Namespace(s.namespace).List(s.ctx, metav1.ListOptions{})
	must(err, "metadata alone is listed")
	// They come in protobuf, whose message has no kind.
	check(len(list.Items) == 1 && list.Items[0].Name == "w" && list.Items[0].Generation == 2, "of each object", list.Items)
	watching, err := widgets.Watch(s.ctx, metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	must(err, "custom objects are watched")
	must(widgets.Delete(s.ctx, "w", metav1.DeleteOptions{}), "it is deleted")
	event := <-watching.ResultChan()
	check(event.Type == "DELETED", "the watch shows it", event)
	watching.Stop()
}
