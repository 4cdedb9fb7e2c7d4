//! What clients learn out of OpenAPI documents: `kubectl explain` in both forms, and strict validation of manifests.

use anyhow::{Context as _, Result, ensure};
use testkit::kubectl::Kubectl;
use testkit::wait::eventually;

use super::Hub;
use crate::common::PATIENCE;

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gears.documents.example.com}
spec:
  group: documents.example.com
  scope: Namespaced
  names: {plural: gears, singular: gear, kind: Gear, listKind: GearList}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.teeth, statusReplicasPath: .status.teeth}}
    schema:
      openAPIV3Schema:
        type: object
        description: A wheel that takes another along.
        required: [spec]
        properties:
          spec:
            type: object
            required: [teeth]
            properties:
              teeth: {type: integer, minimum: 3, description: How many it has.}
              marks: {type: array, items: {type: string}, description: What is engraved.}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status: {type: object, properties: {teeth: {type: integer}}}
"#;

#[test]
fn every_kubectl_explains_and_validates_what_is_built_in_and_what_is_custom() -> Result<()> {
    let hub = Hub::start()?;
    let installed = Kubectl::installed();
    if installed.is_empty() {
        testkit::skip("no kubectl; `cargo xtask test` installs it unless --no-install is given");
        return Ok(());
    }
    let definition = hub.dir.path().join("definition.yaml");
    std::fs::write(&definition, DEFINITION)?;
    for (number, (version, program)) in installed.into_iter().enumerate() {
        let kubectl = Kubectl::new(program, &hub.kubeconfig);
        kubectl.ok(&["apply", "-f", &definition.to_string_lossy()])?;
        kubectl.ok(&["wait", "--for=condition=Established", "crd/gears.documents.example.com", "--timeout=30s"])?;
        drive(&hub, &kubectl, number).with_context(|| format!("kubectl {version}"))?;
    }
    Ok(())
}

fn drive(hub: &Hub, kubectl: &Kubectl, number: usize) -> Result<()> {
    let explained = |args: &[&str], parts: &[&str]| -> Result<()> {
        let printed = kubectl.ok(&[&["explain"], args].concat())?;
        for part in parts {
            ensure!(printed.contains(part), "no {part:?} in explain {args:?}:\n{printed}");
        }
        Ok(())
    };
    // A client may have read the groups before the definition was there.
    eventually("explained custom resource", PATIENCE, || {
        explained(
            &["gears.spec"],
            &["KIND:", "Gear", "documents.example.com", "teeth", "How many it has.", "-required-"],
        )
        .map_err(|error| format!("{error:#}"))
    })?;
    explained(&["gears", "--recursive"], &["A wheel that takes another along.", "marks", "<[]string>", "metadata"])?;
    explained(&["pods.spec.containers"], &["readinessProbe", "imagePullPolicy"])?;
    explained(&["deployments", "--api-version=apps/v1"], &["Deployment", "spec"])?;
    // Out of OpenAPI v2 in protobuf.
    let old = "--output=plaintext-openapiv2";
    explained(&["gears.spec.teeth", old], &["teeth", "<integer>", "How many it has."])?;
    explained(&["gears.spec", "--recursive", old], &["marks", "free"])?;
    explained(&["pods.spec.containers.ports", old], &["containerPort", "<integer> -required-"])?;

    let manifest = |name: &str, spec: &str| -> Result<String> {
        let path = hub.dir.path().join("gear.yaml");
        let text =
            format!("apiVersion: documents.example.com/v1\nkind: Gear\nmetadata: {{name: {name}}}\nspec: {spec}\n");
        std::fs::write(&path, text)?;
        Ok(path.to_string_lossy().into_owned())
    };
    let name = format!("g{number}");
    let file = manifest(&name, "{teeth: 12, tooth: 1}")?;
    let refused = kubectl.run(&["create", "--validate=strict", "-f", &file])?.refused()?;
    ensure!(refused.contains("unknown field \"spec.tooth\""), "{refused}");
    let warned = kubectl.run(&["create", "--validate=warn", "--dry-run=server", "-f", &file])?;
    ensure!(warned.code == 0 && warned.stderr.contains("unknown field \"spec.tooth\""), "{warned:?}");
    let file = manifest(&name, "{teeth: 2}")?;
    let refused = kubectl.run(&["create", "--validate=strict", "-f", &file])?.refused()?;
    ensure!(refused.contains("should be greater than or equal to 3"), "{refused}");
    let file = manifest(&name, "{teeth: 12, marks: [a], free: {x: {y: 1}}}")?;
    kubectl.ok(&["create", "--validate=strict", "-f", &file])?;
    kubectl.ok(&["delete", "-f", &file])?;
    Ok(())
}
