//! kube-rs: its watcher in both ways to list, its controller with owned objects, and server-side apply.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::Controller;
use kube::runtime::controller::Action;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::json;

use super::Hub;
use crate::common::PATIENCE;

const OBJECTS: usize = 120;
const NAMESPACE: &str = "kube-rs";

async fn client(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = Namespace {
        metadata: kube::core::ObjectMeta { name: Some(NAMESPACE.into()), ..Default::default() },
        ..Default::default()
    };
    namespaces.create(&PostParams::default(), &namespace).await?;
    Ok(client)
}

fn config_map(name: &str, data: &[(&str, &str)]) -> ConfigMap {
    let data: BTreeMap<String, String> = data.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    let metadata = kube::core::ObjectMeta {
        name: Some(name.into()),
        labels: Some(BTreeMap::from([("app".to_owned(), "kube-rs".to_owned())])),
        ..Default::default()
    };
    ConfigMap { metadata, data: Some(data), ..Default::default() }
}

fn run(test: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.context("it takes too long")? })
}

#[test]
fn its_watcher_sees_every_object_once() -> Result<()> {
    let hub = Hub::start()?;
    run(async {
        let maps: Api<ConfigMap> = Api::namespaced(client(&hub.kubeconfig).await?, NAMESPACE);
        for number in 0..OBJECTS {
            maps.create(&PostParams::default(), &config_map(&format!("m-{number:03}"), &[])).await?;
        }
        let by_label = watcher::Config::default().labels("app=kube-rs");
        for (what, config) in [("pages", by_label.clone().page_size(50)), ("a watch", by_label.streaming_lists())] {
            let mut events = pin!(watcher::watcher(maps.clone(), config));
            let mut seen = BTreeSet::new();
            loop {
                match events.try_next().await?.context("the watcher does not end")? {
                    Event::InitApply(object) => ensure!(seen.insert(object.name_any()), "{} twice", object.name_any()),
                    Event::InitDone => break,
                    Event::Init => {}
                    other => anyhow::bail!("{other:?} while it lists by {what}"),
                }
            }
            ensure!(seen.len() == OBJECTS, "{} objects by {what}", seen.len());
            maps.create(&PostParams::default(), &config_map("late", &[])).await?;
            let patch = Patch::Merge(json!({"data": {"a": "b"}}));
            maps.patch("late", &PatchParams::default(), &patch).await?;
            maps.delete("late", &DeleteParams::default()).await?;
            let mut then = Vec::new();
            while then.len() < 3 {
                then.push(match events.try_next().await?.context("the watcher does not end")? {
                    Event::Apply(object) => format!("apply {}", object.data.map_or(0, |data| data.len())),
                    Event::Delete(object) => format!("delete {}", object.name_any()),
                    other => anyhow::bail!("{other:?} after it has listed"),
                });
            }
            ensure!(then == ["apply 0", "apply 1", "delete late"], "{then:?}");
        }
        Ok(())
    })
}

#[derive(Debug, thiserror::Error)]
#[error("failed to reconcile")]
struct ReconcileError(#[from] kube::Error);

struct Counted {
    client: Client,
    runs: AtomicU64,
}

/// A secret for each config map, owned by it, with what the config map says.
async fn reconcile(map: Arc<ConfigMap>, context: Arc<Counted>) -> Result<Action, ReconcileError> {
    context.runs.fetch_add(1, Ordering::Relaxed);
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), NAMESPACE);
    let owner = map.controller_owner_ref(&()).expect("it has been read from the server");
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": map.name_any(), "ownerReferences": [owner]},
        "stringData": map.data,
    });
    secrets.patch(&map.name_any(), &PatchParams::apply("kube-rs-controller").force(), &Patch::Apply(secret)).await?;
    Ok(Action::await_change())
}

#[test]
fn its_controller_reconciles_what_it_owns() -> Result<()> {
    let hub = Hub::start()?;
    run(async {
        let client = client(&hub.kubeconfig).await?;
        let maps: Api<ConfigMap> = Api::namespaced(client.clone(), NAMESPACE);
        let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
        for name in ["one", "two"] {
            maps.create(&PostParams::default(), &config_map(name, &[("a", "1")])).await?;
        }
        let context = Arc::new(Counted { client, runs: AtomicU64::new(0) });
        let controller = Controller::new(maps.clone(), watcher::Config::default().labels("app=kube-rs"))
            .owns(secrets.clone(), watcher::Config::default())
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(100)), context.clone())
            .for_each(|_| async {});
        let states = async {
            let value = |name: &'static str| {
                let secrets = secrets.clone();
                async move {
                    let secret = secrets.get_opt(name).await.ok()??;
                    Some(String::from_utf8_lossy(&secret.data?.get("a")?.0).into_owned())
                }
            };
            let wait = |name: &'static str, expected: &'static str| async move {
                while value(name).await.as_deref() != Some(expected) {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            wait("one", "1").await;
            wait("two", "1").await;
            maps.patch("one", &PatchParams::default(), &Patch::Merge(json!({"data": {"a": "2"}}))).await?;
            wait("one", "2").await;
            // What it owns and somebody deletes comes back.
            secrets.delete("two", &DeleteParams::default()).await?;
            wait("two", "1").await;
            anyhow::Ok(())
        };
        tokio::select! {
            () = controller => anyhow::bail!("the controller has ended"),
            done = states => done?,
        }
        ensure!(context.runs.load(Ordering::Relaxed) >= 4, "{} runs", context.runs.load(Ordering::Relaxed));
        Ok(())
    })
}

#[test]
fn its_apply_finds_conflicts_and_forces_them() -> Result<()> {
    let hub = Hub::start()?;
    run(async {
        let maps: Api<ConfigMap> = Api::namespaced(client(&hub.kubeconfig).await?, NAMESPACE);
        let apply = |manager: &str, value: &str, is_forced: bool| {
            let mut params = PatchParams::apply(manager);
            params.force = is_forced;
            let patch =
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": value}});
            let maps = maps.clone();
            async move { maps.patch("applied", &params, &Patch::Apply(patch)).await }
        };
        let first = apply("one", "1", false).await?;
        let same = apply("one", "1", false).await?;
        ensure!(first.resource_version() == same.resource_version(), "the same has changed something");
        let Err(kube::Error::Api(conflict)) = apply("two", "2", false).await else { anyhow::bail!("no conflict") };
        ensure!(conflict.code == 409 && conflict.message.contains("conflict with \"one\": .data.a"), "{conflict:?}");
        let forced = apply("two", "2", true).await?;
        ensure!(forced.data.and_then(|data| data.get("a").cloned()).as_deref() == Some("2"), "it was not forced");
        let page = maps.list(&ListParams::default().labels("no=such")).await?;
        ensure!(page.items.is_empty(), "{} objects", page.items.len());
        maps.delete("applied", &DeleteParams::default()).await?;
        Ok(())
    })
}
