//! What pods use, as `metrics.k8s.io` shows it: a load that all pods of an app share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use base_http::{Body, respond};
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use machinery_server::{Extension, ExtensionGroup, ExtensionResource, Identity, RequestBody};
use machinery_store::Store;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::api::time_of;

/// Millicores by app, for pods that run.
#[derive(Default)]
pub(crate) struct Load {
    of: Mutex<Option<(Store, Arc<AtomicI64>)>>,
    pub by_app: Mutex<BTreeMap<String, i64>>,
}

impl Load {
    pub(crate) fn set(&self, store: Store, now: Arc<AtomicI64>) {
        *self.of.lock() = Some((store, now));
    }
}

impl Extension for Load {
    fn prefix(&self) -> &'static str {
        "/apis/metrics.k8s.io"
    }

    fn api_group(&self) -> Option<ExtensionGroup> {
        const RESOURCES: &[ExtensionResource] =
            &[ExtensionResource { plural: "pods", kind: "PodMetrics", is_namespaced: true }];
        Some(ExtensionGroup { group: "metrics.k8s.io", version: "v1beta1", resources: RESOURCES })
    }

    fn call<'a>(&'a self, _: Request<RequestBody>, _: &'a Identity) -> BoxFuture<'a, Response<Body>> {
        let of = self.of.lock();
        let (store, now) = of.as_ref().expect("it is set before the server");
        let mut by_app: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for object in store.snapshot("/pods").iter(None, None) {
            let Ok(pod) = serde_json::from_slice::<Value>(&object.bytes) else { continue };
            if pod["status"]["phase"] == "Running" {
                let app = pod["metadata"]["labels"]["app"].as_str().unwrap_or_default();
                by_app.entry(app.to_owned()).or_default().push(object.key.name.to_string());
            }
        }
        let (loads, now) = (self.by_app.lock(), time_of(now).to_string());
        let mut items = Vec::new();
        for (app, pods) in by_app {
            let count = i64::try_from(pods.len()).unwrap_or(i64::MAX);
            let each = loads.get(&app).copied().unwrap_or(100).checked_div(count).unwrap_or_default();
            items.extend(pods.iter().map(|name| {
                let containers = json!([{"name": "main", "usage": {"cpu": format!("{each}m"), "memory": "1Mi"}}]);
                json!({"metadata": {"name": name}, "timestamp": now, "window": "15s", "containers": containers})
            }));
        }
        let list =
            json!({"kind": "PodMetricsList", "apiVersion": "metrics.k8s.io/v1beta1", "metadata": {}, "items": items});
        Box::pin(async move { respond::json(StatusCode::OK, &list) })
    }
}
