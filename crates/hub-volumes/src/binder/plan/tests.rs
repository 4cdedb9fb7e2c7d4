use serde_json::{Value, json};

use super::*;

/// A claim of `uid` `c` with this metadata and spec beside what every claim has.
fn claim(annotations: &Value, spec: &Value) -> String {
    let mut whole = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}});
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    json!({"metadata": {"namespace": "d", "name": "data", "uid": "c", "annotations": annotations}, "spec": whole})
        .to_string()
}

fn volume(name: &str, fields: &Value) -> String {
    let mut spec = json!({
        "storageClassName": "", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "5Gi"},
        "persistentVolumeReclaimPolicy": "Retain",
    });
    let mut whole = json!({"metadata": {"name": name}});
    for (field, value) in fields.as_object().unwrap() {
        match field.as_str() {
            "annotations" | "deletionTimestamp" => whole["metadata"][field] = value.clone(),
            "phase" => whole["status"]["phase"] = value.clone(),
            _ => spec[field] = value.clone(),
        }
    }
    whole["spec"] = spec;
    whole.to_string()
}

fn class(provisioner: &str, mode: &str) -> String {
    json!({"metadata": {"name": "local"}, "provisioner": provisioner, "volumeBindingMode": mode}).to_string()
}

const WAITS: &str = "WaitForFirstConsumer";

/// What is written for a step in the tables: a word, and what is said.
fn shown(step: &ClaimStep) -> String {
    let said = |said: &Said| {
        let kind = if said.is_warning { "!" } else { "" };
        format!("{kind}{}: {}", said.reason, said.message)
    };
    match step {
        ClaimStep::Keep => "keep".to_owned(),
        ClaimStep::SetClass(class) => format!("class {class}"),
        ClaimStep::SelectNode(node) => format!("node {node}"),
        ClaimStep::Bind(volume) => format!("bind {volume}"),
        ClaimStep::Lose(why) => format!("lose {}", said(why)),
        ClaimStep::Wait { said: why, .. } => why.as_ref().map_or_else(|| "wait".to_owned(), said),
    }
}

#[derive(Default)]
struct Case<'c> {
    annotations: Value,
    spec: Value,
    volumes: &'c [String],
    class: Option<String>,
    default_class: Option<&'c str>,
    pods: Vec<Value>,
    node: Option<&'c str>,
}

fn step(case: Case<'_>) -> String {
    let spec = if case.spec.is_null() { json!({}) } else { case.spec };
    let text = claim(&case.annotations, &spec);
    let claim: Claim<'_> = serde_json::from_str(&text).unwrap();
    let volumes: Vec<Volume<'_>> = case.volumes.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let class: Option<Class<'_>> = case.class.as_ref().map(|text| serde_json::from_str(text).unwrap());
    let pods: Vec<String> = case.pods.iter().map(ToString::to_string).collect();
    let pods: Vec<PodView<'_>> = pods.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let node = case.node.map(|name| json!({"metadata": {"name": name, "labels": {"a": name}}}).to_string());
    let node: Option<Node<'_>> = node.as_ref().map(|text| serde_json::from_str(text).unwrap());
    let named = volumes.iter().find(|volume| volume.metadata.name == claim.spec.volume_name);
    let facts = ClaimFacts {
        named,
        volumes: &volumes,
        class: class.as_ref(),
        default_class: case.default_class,
        pods: &pods,
        node: node.as_ref(),
    };
    shown(&claim_step(&claim, &facts))
}

#[test]
fn a_claim_without_a_volume_says_what_it_waits_for() {
    let local = || Some(class("selvedge.dev/local", WAITS));
    let of_local = || json!({"storageClassName": "local"});
    let pod = |name: &str, node: &str, phase: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node}, "status": {"phase": phase}});
    assert_eq!(
        step(Case::default()),
        "FailedBinding: no persistent volumes available for this claim and no storage class is set"
    );
    assert_eq!(step(Case { default_class: Some("local"), ..Case::default() }), "class local");
    let none = json!({"storageClassName": ""});
    assert!(step(Case { spec: none, default_class: Some("local"), ..Case::default() }).starts_with("FailedBinding"));
    assert_eq!(
        step(Case { spec: of_local(), ..Case::default() }),
        "!ProvisioningFailed: storageclass.storage.k8s.io \"local\" not found"
    );
    assert_eq!(
        step(Case { spec: of_local(), class: local(), ..Case::default() }),
        "WaitForFirstConsumer: waiting for first consumer to be created before binding"
    );
    let pods = vec![pod("a", "", "Pending"), pod("over", "gw", "Succeeded")];
    assert_eq!(
        step(Case { spec: of_local(), class: local(), pods, ..Case::default() }),
        "WaitForPodScheduled: waiting for pod a to be scheduled"
    );
    let pods = vec![pod("a", "", "Pending"), pod("b", "", "")];
    assert_eq!(
        step(Case { spec: of_local(), class: local(), pods, ..Case::default() }),
        "WaitForPodScheduled: waiting for pods a,b to be scheduled"
    );
    let by_hand = || class(NO_PROVISIONER, WAITS);
    assert_eq!(step(Case { spec: of_local(), class: local(), node: Some("gw-1"), ..Case::default() }), "node gw-1");
    assert_eq!(
        step(Case { spec: of_local(), class: Some(by_hand()), node: Some("gw-1"), ..Case::default() }),
        "!FailedBinding: no persistent volumes available for this claim on node gw-1"
    );
    let selected = json!({SELECTED_NODE: "gw-1"});
    let waits = step(Case { annotations: selected, spec: of_local(), class: local(), ..Case::default() });
    assert!(waits.starts_with("ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'selvedge.dev/local' or manually by the system administrator. If"), "{waits}");
    let at_once = Some(class(NO_PROVISIONER, "Immediate"));
    assert_eq!(
        step(Case { spec: of_local(), class: at_once, ..Case::default() }),
        "!ProvisioningFailed: no volume plugin matched name: kubernetes.io/no-provisioner"
    );
}

#[test]
fn a_claim_is_bound_to_what_suits_it_and_waits_for_its_node_where_its_class_says_so() {
    let here = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["gw-1"]}]}]}});
    let volumes =
        [volume("plain", &json!({})), volume("local", &json!({"storageClassName": "local", "nodeAffinity": here}))];
    assert_eq!(step(Case { volumes: &volumes, ..Case::default() }), "bind plain");
    let of_local = || json!({"storageClassName": "local"});
    let at_once = Some(class("x.io/y", "Immediate"));
    assert_eq!(step(Case { spec: of_local(), class: at_once, volumes: &volumes, ..Case::default() }), "bind local");
    let waits = || Some(class(NO_PROVISIONER, WAITS));
    let unplaced = step(Case { spec: of_local(), class: waits(), volumes: &volumes, ..Case::default() });
    assert!(unplaced.starts_with("WaitForFirstConsumer"), "{unplaced}");
    let placed = |node| step(Case { spec: of_local(), class: waits(), volumes: &volumes, node, ..Case::default() });
    assert_eq!(placed(Some("gw-1")), "bind local");
    assert!(placed(Some("gw-2")).starts_with("!FailedBinding"));
    // A scheduler has bound the volume, and the claim follows.
    let mine = [volume(
        "v",
        &json!({"storageClassName": "local", "claimRef": {"namespace": "d", "name": "data", "uid": "c"}}),
    )];
    assert_eq!(step(Case { spec: of_local(), class: waits(), volumes: &mine, ..Case::default() }), "bind v");
}

#[test]
fn a_claim_that_names_a_volume_gets_that_or_says_why_not() {
    let named = || json!({"volumeName": "v", "storageClassName": ""});
    let with = |fields: Value| {
        let volumes = [volume("v", &fields)];
        step(Case { spec: named(), volumes: &volumes, ..Case::default() })
    };
    assert_eq!(step(Case { spec: named(), ..Case::default() }), "wait");
    assert_eq!(with(json!({})), "bind v");
    assert_eq!(with(json!({"claimRef": {"namespace": "d", "name": "data"}})), "bind v");
    assert_eq!(
        with(json!({"claimRef": {"namespace": "d", "name": "other", "uid": "o"}})),
        "!FailedBinding: volume \"v\" already bound to a different claim."
    );
    assert_eq!(
        with(json!({"capacity": {"storage": "1Gi"}})),
        "!VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small"
    );
    assert_eq!(
        with(json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})),
        "!VolumeMismatch: Cannot bind to requested volume \"v\": the volume is marked for deletion \"v\""
    );
}

#[test]
fn a_bound_claim_stays_bound_or_is_lost() {
    let bound = || json!({"pv.kubernetes.io/bind-completed": "yes"});
    let with = |volume_name: &str, volumes: &[String]| {
        step(Case { annotations: bound(), spec: json!({"volumeName": volume_name}), volumes, ..Case::default() })
    };
    let of = |claim: Value| [volume("v", &json!({"claimRef": claim}))];
    assert_eq!(with("v", &of(json!({"namespace": "d", "name": "data", "uid": "c"}))), "bind v");
    assert_eq!(with("v", &of(Value::Null)), "bind v");
    assert_eq!(
        with("v", &of(json!({"namespace": "d", "name": "data", "uid": "other"}))),
        "lose !ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly"
    );
    assert_eq!(
        with("v", &[]),
        "lose !ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!"
    );
    assert_eq!(
        with("", &[]),
        "lose !ClaimLost: Bound claim has lost reference to PersistentVolume. Data on the volume is lost!"
    );
}

#[test]
fn a_volume_follows_its_claim() {
    let mine = json!({"namespace": "d", "name": "data", "uid": "c"});
    let check = |fields: Value, claim_spec: Option<Value>, expected: VolumeStep| {
        let text = volume("v", &fields);
        let claim_text = claim_spec.map(|spec| claim(&Value::Null, &spec));
        let claim: Option<Claim<'_>> = claim_text.as_ref().map(|text| serde_json::from_str(text).unwrap());
        let of = claim.as_ref().map_or(ClaimOf::Deleted, ClaimOf::Found);
        assert_eq!(volume_step(&serde_json::from_str(&text).unwrap(), of), expected, "{fields}");
    };
    let phase = |phase| VolumeStep::Phase(phase, None);
    let failed = |reason, message: &str| VolumeStep::Phase(VolumePhase::Failed, Some(Said::warning(reason, message)));
    let with = |fields: Value| {
        let mut all = json!({"claimRef": mine});
        for (field, value) in fields.as_object().unwrap() {
            all[field] = value.clone();
        }
        all
    };
    check(json!({}), None, phase(VolumePhase::Available));
    check(json!({"claimRef": {"namespace": "d", "name": "data"}}), None, phase(VolumePhase::Available));
    check(with(json!({})), Some(json!({})), VolumeStep::Keep);
    check(with(json!({})), Some(json!({"volumeName": "v"})), phase(VolumePhase::Bound));
    check(with(json!({})), None, phase(VolumePhase::Released));
    check(
        json!({"claimRef": {"namespace": "d", "name": "data", "uid": "before"}}),
        Some(json!({})),
        phase(VolumePhase::Released),
    );
    let to_another = || Some(json!({"volumeName": "other"}));
    check(with(json!({})), to_another(), VolumeStep::Unbind { forgets_claim: false });
    let chosen = json!({"annotations": {BOUND_BY_CONTROLLER: "yes"}});
    check(with(chosen), to_another(), VolumeStep::Unbind { forgets_claim: true });
    let made = json!({"annotations": {PROVISIONED_BY: "x"}, "persistentVolumeReclaimPolicy": "Delete"});
    check(with(made.clone()), to_another(), phase(VolumePhase::Released));
    check(with(made), None, phase(VolumePhase::Released));
    let policy = |policy: &str, phase: &str| with(json!({"persistentVolumeReclaimPolicy": policy, "phase": phase}));
    check(policy("Delete", "Bound"), None, phase(VolumePhase::Released));
    check(
        policy("Delete", "Released"),
        None,
        failed(
            "VolumeFailedDelete",
            "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched",
        ),
    );
    check(
        policy("Recycle", "Released"),
        None,
        failed("VolumeFailedRecycle", "No recycler plugin found for the volume!"),
    );
    check(
        policy("Burn", "Failed"),
        None,
        failed("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy"),
    );
    check(policy("Retain", "Failed"), None, VolumeStep::Keep);
}
