use std::collections::BTreeMap;

use serde_json::json;

use super::*;

struct Objects(BTreeMap<(ObjectKind, String), Known>);

impl Lookup for Objects {
    fn object(&self, key: &ObjectKey) -> Known {
        self.0.get(&(key.kind, key.name.clone())).cloned().unwrap_or(Known::Absent)
    }
}

/// Where a claim leads to that is `claim`, bound to a volume with `spec`.
fn look(claim: Known, volume: Known) -> Result<Claimed, String> {
    let pod = json!({
        "metadata": {"name": "p", "namespace": "d", "uid": "u"},
        "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]},
    });
    let pod = Pod::from_json(pod.to_string().as_bytes()).unwrap();
    assert_eq!(pod.references().claims.iter().collect::<Vec<_>>(), ["data"]);
    let objects = [((ObjectKind::Claim, "data".to_owned()), claim), ((ObjectKind::Volume, "disk".to_owned()), volume)];
    let node = NodeFacts { node_name: "edge-1".to_owned(), ..NodeFacts::default() };
    let source = pod.spec.volumes[0].persistent_volume_claim.clone().unwrap();
    find(&pod, "v", &source, &node, &Objects(objects.into())).map_err(|error| node_client::chain(&error))
}

fn claim(volume: &str) -> Known {
    Known::Present(json!({"metadata": {"name": "data", "namespace": "d", "uid": "c"}, "spec": {"volumeName": volume}}))
}

fn volume(spec: Value) -> Known {
    let mut volume = json!({"metadata": {"name": "disk"}, "spec": spec});
    if volume["spec"]["claimRef"].is_null() {
        volume["spec"]["claimRef"] = json!({"namespace": "d", "name": "data"});
    }
    Known::Present(volume)
}

fn affinity(terms: Value) -> Value {
    json!({"local": {"path": "/data"}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}})
}

#[test]
fn a_claim_that_is_bound_both_ways_leads_to_a_directory_of_the_node() {
    let named = json!([{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": ["edge-1", "edge-2"]}]}]);
    let local = look(claim("disk"), volume(affinity(named))).unwrap();
    assert_eq!(local, Claimed::Path(HostPath { path: "/data".to_owned(), r#type: "Directory".to_owned() }));
    let field = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["edge-1"]}]}]);
    assert!(look(claim("disk"), volume(affinity(field))).is_ok());
    let spec = json!({"hostPath": {"path": "/made", "type": "DirectoryOrCreate"}, "claimRef": {"namespace": "d", "name": "data", "uid": "c"}});
    let made = look(claim("disk"), volume(spec)).unwrap();
    assert_eq!(made, Claimed::Path(HostPath { path: "/made".to_owned(), r#type: "DirectoryOrCreate".to_owned() }));
    assert_eq!(volume_of(&claim("disk")), Some(ObjectKey::of_volume("disk")));
    assert_eq!(volume_of(&claim("")), None);
}

#[test]
fn a_claim_that_leads_nowhere_here_says_why() {
    let local = || volume(json!({"local": {"path": "/data"}}));
    let check = |claim: Known, volume: Known, expected: &str| {
        let said = look(claim, volume).unwrap_err();
        assert!(said.contains(expected), "{said}");
    };
    check(Known::Unknown, local(), "persistentvolumeclaim \"data\" was not fetched from the hub yet");
    check(Known::Absent, local(), "volume \"v\" claims d/data: persistentvolumeclaim \"data\" not found");
    check(claim(""), local(), "it is not bound; a PersistentVolume that suits it");
    check(claim("disk"), Known::Absent, "persistentvolume \"disk\" not found");
    check(claim("disk"), Known::Unknown, "persistentvolume \"disk\" was not fetched from the hub yet");
    let lost = Known::Present(json!({"spec": {"volumeName": "disk"}, "status": {"phase": "Lost"}}));
    check(lost, local(), "it has lost its volume");
    for of in
        [json!({"namespace": "other", "name": "data"}), json!({"namespace": "d", "name": "data", "uid": "before"})]
    {
        let spec = json!({"local": {"path": "/data"}, "claimRef": of});
        check(claim("disk"), volume(spec), "volume disk is not bound to it");
    }
    let block = json!({"local": {"path": "/dev/x"}, "volumeMode": "Block"});
    check(claim("disk"), volume(block), "is a block device");
    check(claim("disk"), volume(json!({"nfs": {"server": "x"}})), "neither of the kind local nor hostPath");
    let other = json!([{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": ["edge-2"]}]}]);
    check(claim("disk"), volume(affinity(other)), "it is on another node");
    check(claim("disk"), volume(affinity(json!([{}]))), "it is on another node");
    let zone = json!([{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}]);
    check(claim("disk"), volume(affinity(zone)), "asks for zone; use kubernetes.io/hostname");
}

#[test]
fn a_volume_that_the_hub_has_made_is_a_directory_of_the_node_wherever_it_says_that_it_is() {
    let made = |node: &str, path: &str| {
        let named = json!([{"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}]);
        let mut volume = json!({
            "metadata": {
                "name": "disk", "annotations": {"pv.kubernetes.io/provisioned-by": api_edge::volumes::PROVISIONER},
            },
            "spec": affinity(named),
        });
        volume["spec"]["local"]["path"] = path.into();
        volume["spec"]["claimRef"] = json!({"namespace": "d", "name": "data"});
        Known::Present(volume)
    };
    for path in ["/var/lib/selvedge/node/volumes/disk", "/etc", "/../x"] {
        assert_eq!(look(claim("disk"), made("edge-1", path)), Ok(Claimed::Directory("disk".to_owned())));
    }
    let why = look(claim("disk"), made("edge-2", "/data")).unwrap_err();
    assert!(why.contains("it is on another node"), "{why}");
}
