"""Uses an API server by the official Python client, as scripts and operators do: typed objects, custom objects, the dynamic
client, watches, patches of every kind, server-side apply, leader election.

Usage: client.py KUBECONFIG NAMESPACE. Prints a line for each thing that it has seen to work and ends with 1 at the first that does not.
"""

import json
import sys
import threading

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException


def check(is_true, what, seen=None):
    if not is_true:
        print(f"NOT: {what}: {seen!r}")
        sys.exit(1)
    print("ok:", what)


def refused(status, reason, call):
    try:
        got = call()
    except ApiException as error:
        body = json.loads(error.body)
        check(error.status == status and body["reason"] == reason, f"{status} {reason}", (error.status, error.body))
        return body
    check(False, f"{status} {reason}", got)


def config_maps(namespace):
    api = client.CoreV1Api()
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="one", labels={"app": "py"}), data={"a": "1"})
    created = api.create_namespaced_config_map(namespace, body)
    check(created.metadata.uid and created.metadata.creation_timestamp.tzinfo, "a config map is created", created)
    refused(409, "AlreadyExists", lambda: api.create_namespaced_config_map(namespace, body))
    refused(404, "NotFound", lambda: api.read_namespaced_config_map("absent", namespace))
    bad = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="Not A Name"))
    status = refused(422, "Invalid", lambda: api.create_namespaced_config_map(namespace, bad))
    check(status["details"]["causes"][0]["field"] == "metadata.name", "the cause names the field", status)
    patched = api.patch_namespaced_config_map("one", namespace, {"data": {"b": "2"}})
    check(patched.data == {"a": "1", "b": "2"}, "a patch is merged", patched.data)
    patched = api.patch_namespaced_config_map("one", namespace, [{"op": "remove", "path": "/data/a"}])
    check(patched.data == {"b": "2"}, "a JSON patch removes", patched.data)
    stale = created
    stale.data = {"a": "3"}
    refused(409, "Conflict", lambda: api.replace_namespaced_config_map("one", namespace, stale))
    for number in range(5):
        api.create_namespaced_config_map(namespace, {"metadata": {"generateName": "many-", "labels": {"many": str(number)}}})
    names, token = [], None
    while True:
        page = api.list_namespaced_config_map(namespace, label_selector="many", limit=2, _continue=token)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    check(len(set(names)) == 5, "pages hold everything once", names)
    api.delete_collection_namespaced_config_map(namespace, label_selector="many")
    left = api.list_namespaced_config_map(namespace, label_selector="many")
    check(not left.items, "a collection is deleted", left.items)
    api.delete_namespaced_config_map("one", namespace)


def watches(namespace):
    api = client.CoreV1Api()
    start = api.list_namespaced_secret(namespace).metadata.resource_version

    def write():
        api.create_namespaced_secret(namespace, {"metadata": {"name": "seen"}, "stringData": {"k": "v"}})
        api.patch_namespaced_secret("seen", namespace, {"metadata": {"labels": {"a": "b"}}})
        api.delete_namespaced_secret("seen", namespace)

    writer = threading.Thread(target=write)
    seen, watcher = [], watch.Watch()
    writer.start()
    for event in watcher.stream(api.list_namespaced_secret, namespace, resource_version=start, timeout_seconds=20):
        seen.append(event["type"])
        if event["type"] == "DELETED":
            watcher.stop()
    writer.join()
    check(seen == ["ADDED", "MODIFIED", "DELETED"], "a watch shows what happens", seen)


def deployments(namespace):
    api = client.AppsV1Api()
    labels = {"app": "web"}
    template = client.V1PodTemplateSpec(
        metadata=client.V1ObjectMeta(labels=labels),
        spec=client.V1PodSpec(containers=[client.V1Container(name="main", image="registry.example/main:1")]),
    )
    spec = client.V1DeploymentSpec(replicas=0, selector=client.V1LabelSelector(match_labels=labels), template=template)
    created = api.create_namespaced_deployment(
        namespace, client.V1Deployment(metadata=client.V1ObjectMeta(name="web"), spec=spec)
    )
    check(created.spec.revision_history_limit == 10, "a deployment has its defaults", created.spec)
    side = {"spec": {"template": {"spec": {"containers": [{"name": "side", "image": "registry.example/side:1"}]}}}}
    patched = api.patch_namespaced_deployment("web", namespace, side)
    check(len(patched.spec.template.spec.containers) == 2, "lists are merged by their key", patched.spec.template.spec)
    scale = api.read_namespaced_deployment_scale("web", namespace)
    scale.spec.replicas = 3
    # The controller of Deployments writes as well.
    scale.metadata.resource_version = None
    check(api.replace_namespaced_deployment_scale("web", namespace, scale).spec.replicas == 3, "a scale is written")
    api.delete_namespaced_deployment("web", namespace, propagation_policy="Background")
    utils.create_from_dict(
        client.ApiClient(), {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}},
        namespace=namespace,
    )
    address = client.CoreV1Api().read_namespaced_service("web", namespace).spec.cluster_ip
    check(address, "a service has an address", address)


def custom_objects(namespace):
    group = f"{namespace}.example.com"
    api = client.ApiextensionsV1Api()
    version = {
        "name": "v1", "served": True, "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}}}},
    }
    api.create_custom_resource_definition({
        "metadata": {"name": f"things.{group}"},
        "spec": {"group": group, "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"}, "versions": [version]},
    })
    for event in watch.Watch().stream(
        api.list_custom_resource_definition, field_selector=f"metadata.name=things.{group}", timeout_seconds=20
    ):
        conditions = event["object"].status.conditions if event["object"].status else None
        if any(one.type == "Established" and one.status == "True" for one in conditions or []):
            break
    else:
        check(False, "a definition is established")
    things = client.CustomObjectsApi()
    thing = {"apiVersion": f"{group}/v1", "kind": "Thing", "metadata": {"name": "t"}}
    made = things.create_namespaced_custom_object(group, "v1", namespace, "things", {**thing, "spec": {}})
    check(made["spec"]["size"] == 3, "a custom object has its default", made)
    made = things.patch_namespaced_custom_object(group, "v1", namespace, "things", "t", {"spec": {"size": 4}})
    check(made["spec"]["size"] == 4, "and is patched", made)
    kinds = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version=f"{group}/v1", kind="Thing")
    listed = kinds.get(namespace=namespace)
    check([item.metadata.name for item in listed.items] == ["t"], "the dynamic client lists it", listed)
    things.delete_namespaced_custom_object(group, "v1", namespace, "things", "t")
    api.delete_custom_resource_definition(f"things.{group}")


def server_side_apply(namespace):
    resource = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")

    def apply(data, manager, force=False):
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": data}
        return resource.server_side_apply(body, namespace=namespace, field_manager=manager, force_conflicts=force)

    apply({"a": "1"}, "one")
    try:
        apply({"a": "2"}, "two")
        check(False, "another's field is a conflict")
    except ApiException as error:
        check(error.status == 409, "another's field is a conflict", error.status)
    check(apply({"a": "2"}, "two", force=True).data.a == "2", "a conflict is forced")
    apply({}, "two")
    left = client.CoreV1Api().read_namespaced_config_map("applied", namespace)
    check(not left.data, "what nobody owns any more is removed", left.data)


def access(namespace):
    api = client.AuthorizationV1Api()
    attributes = client.V1ResourceAttributes(verb="delete", resource="nodes")
    review = api.create_self_subject_access_review(
        client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    )
    check(review.status.allowed, "an administrator may do everything", review.status)
    check(client.VersionApi().get_code().major == "1", "it is a Kubernetes")
    check(any(group.name == "apps" for group in client.ApisApi().get_api_versions().groups), "groups are discovered")


SUITES = {
    "config-maps": config_maps, "watches": watches, "deployments": deployments, "custom-objects": custom_objects,
    "apply": server_side_apply, "access": access,
}


def main():
    kubeconfig, namespace, *suites = sys.argv[1:]
    config.load_kube_config(kubeconfig)
    client.CoreV1Api().create_namespace({"metadata": {"name": namespace}})
    for name in suites or SUITES:
        SUITES[name](namespace)
    client.CoreV1Api().delete_namespace(namespace)
    print("all of it")


main()
