//! What is measured, as the API serves it: `metrics.k8s.io` of nodes and pods, and what others add to a cluster as
//! `custom.metrics.k8s.io` and `external.metrics.k8s.io`.
//!
//! It is read through the API, so that it does not matter who serves it.

use std::collections::BTreeMap;
use std::time::Duration;

use api_kube::{LabelSelectorSpec, Quantity};
use http::Request;
use jiff::Timestamp;
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::scales::{Scales, text_of};
use hub_runtime::views::nullable;

use super::calculate::{Sample, Samples};

const RESOURCE_API: &str = "/apis/metrics.k8s.io/v1beta1";
const CUSTOM_GROUP: &str = "custom.metrics.k8s.io";
const EXTERNAL_API: &str = "/apis/external.metrics.k8s.io/v1beta1";
/// Of a measurement that does not say over which time it was taken.
const WINDOW: Duration = Duration::from_secs(60);
/// No window is longer; the number comes from whoever serves the API.
const WINDOW_MAX_S: i64 = 24 * 3600;

/// Where measurements are read.
#[derive(Clone, Copy)]
pub(super) struct Metrics<'a> {
    pub client: &'a Client,
    pub scales: &'a Scales,
    pub namespace: &'a str,
    /// Which pods, as text.
    pub selector: &'a str,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodMetricsList {
    #[serde(deserialize_with = "nullable")]
    items: Vec<PodMetrics>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PodMetrics {
    metadata: Name,
    timestamp: Option<Timestamp>,
    window: String,
    #[serde(deserialize_with = "nullable")]
    containers: Vec<ContainerMetrics>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Name {
    name: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ContainerMetrics {
    name: String,
    #[serde(deserialize_with = "nullable")]
    usage: BTreeMap<String, Quantity>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ValueList {
    #[serde(deserialize_with = "nullable")]
    items: Vec<MetricValue>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MetricValue {
    described_object: Name,
    timestamp: Option<Timestamp>,
    window_seconds: Option<i64>,
    value: Quantity,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Group {
    preferred_version: GroupVersion,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct GroupVersion {
    version: String,
}

impl Metrics<'_> {
    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, kube::Error> {
        let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }

    /// What the pods use of a resource, or one of their containers does.
    ///
    /// # Errors
    /// In upstream's words.
    pub async fn of_resource(&self, resource: &str, container: Option<&str>) -> Result<Samples, String> {
        let path = format!(
            "{RESOURCE_API}/namespaces/{}/pods?labelSelector={}",
            encoded(self.namespace),
            encoded(self.selector)
        );
        let list: PodMetricsList = self.get(path).await.map_err(|error| {
            format!("unable to fetch metrics from resource metrics API: {}", said(&error, "pods.metrics.k8s.io"))
        })?;
        samples(list, self.namespace, resource, container)
    }

    /// A metric of each pod.
    ///
    /// # Errors
    /// In upstream's words.
    pub async fn of_pods(&self, metric: &str, selector: &Value) -> Result<Samples, String> {
        let list = self.custom(&format!("pods/%2A/{}", encoded(metric)), selector, Some(self.selector)).await?;
        let sample = |item: MetricValue| {
            let seconds = item.window_seconds.map(|seconds| seconds.clamp(0, WINDOW_MAX_S));
            let window = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map_or(WINDOW, Duration::from_secs);
            let at = item.timestamp.unwrap_or_default();
            (item.described_object.name, Sample { value: item.value.milli_value(), at, window })
        };
        Ok(list.items.into_iter().map(sample).collect())
    }

    /// A metric of one object, in thousandths.
    ///
    /// # Errors
    /// In upstream's words.
    pub async fn of_object(&self, metric: &str, selector: &Value, object: &Value) -> Result<i64, String> {
        let text = |field: &str| object[field].as_str().unwrap_or_default();
        let (kind, name) = (text("kind"), text("name"));
        let place = match (kind, text("apiVersion")) {
            ("Namespace", "v1" | "") => format!("metrics/{}", encoded(metric)),
            (kind, api_version) => {
                let served = self.scales.served(self.client, api_version, kind).await;
                let resource = served.map_err(|error| error.to_string())?.resource;
                let group = if resource.group.is_empty() { String::new() } else { format!(".{}", resource.group) };
                format!("{}{group}/{}/{}", resource.plural, encoded(name), encoded(metric))
            }
        };
        let list = self.custom(&place, selector, None).await?;
        Ok(list.items.first().map_or(0, |item| item.value.milli_value()))
    }

    async fn custom(&self, place: &str, selector: &Value, pods: Option<&str>) -> Result<ValueList, String> {
        let failed = |why: String| format!("unable to fetch metrics from custom metrics API: {why}");
        let group: Group = self.get(format!("/apis/{CUSTOM_GROUP}")).await.map_err(|error| match &error {
            kube::Error::Api(status) if status.code == 404 => {
                failed(format!("no custom metrics API ({CUSTOM_GROUP}) registered"))
            }
            error => failed(text_of(error)),
        })?;
        let namespace = encoded(self.namespace);
        let mut path =
            format!("/apis/{CUSTOM_GROUP}/{}/namespaces/{namespace}/{place}?", group.preferred_version.version);
        if let Some(pods) = pods {
            path += &format!("labelSelector={}&", encoded(pods));
        }
        let selector = selector_text(selector)?;
        if !selector.is_empty() {
            path += &format!("metricLabelSelector={}", encoded(&selector));
        }
        let list: ValueList = self.get(path).await.map_err(|error| failed(text_of(&error)))?;
        if list.items.is_empty() {
            return Err("no metrics returned from custom metrics API".to_owned());
        }
        Ok(list)
    }

    /// A metric of what is outside of the cluster, in thousandths.
    ///
    /// # Errors
    /// In upstream's words.
    pub async fn external(&self, metric: &str, selector: &Value) -> Result<i64, String> {
        let selector = selector_text(selector)?;
        let path = format!(
            "{EXTERNAL_API}/namespaces/{}/{}?labelSelector={}",
            encoded(self.namespace),
            encoded(metric),
            encoded(&selector)
        );
        let list: ValueList = self.get(path).await.map_err(|error| {
            let what = format!("{metric}.external.metrics.k8s.io");
            format!("unable to fetch metrics from external metrics API: {}", said(&error, &what))
        })?;
        if list.items.is_empty() {
            return Err("no metrics returned from external metrics API".to_owned());
        }
        Ok(list.items.iter().fold(0, |sum: i64, item| sum.saturating_add(item.value.milli_value())))
    }
}

fn samples(list: PodMetricsList, namespace: &str, resource: &str, container: Option<&str>) -> Result<Samples, String> {
    if list.items.is_empty() {
        return Err("no metrics returned from resource metrics API".to_owned());
    }
    let mut samples = Samples::new();
    for pod in list.items {
        let name = pod.metadata.name;
        let usage = |one: &ContainerMetrics| one.usage.get(resource).map(Quantity::milli_value);
        let value = match container {
            // What one of its containers does not say of itself is not known of the pod.
            None if pod.containers.is_empty() => None,
            None => pod.containers.iter().try_fold(0_i64, |sum, one| Some(sum.saturating_add(usage(one)?))),
            Some(container) => match pod.containers.iter().find(|one| one.name == container) {
                Some(found) => usage(found),
                None => {
                    let why = format!("container {container} not present in metrics for pod {namespace}/{name}");
                    return Err(format!("failed to get container metrics: {why}"));
                }
            },
        };
        let at = pod.timestamp.unwrap_or_default();
        let window = pod.window.parse::<jiff::SignedDuration>().ok().and_then(|window| window.try_into().ok());
        let window: Duration = window.unwrap_or(WINDOW);
        if let Some(value) = value {
            samples.insert(
                name,
                Sample { value, at, window: window.min(Duration::from_secs(WINDOW_MAX_S.unsigned_abs())) },
            );
        }
    }
    Ok(samples)
}

/// What the API said. Where it serves nothing of the kind its answer is no `Status`, and upstream's clients word it like this.
fn said(error: &kube::Error, what: &str) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 && status.reason != "NotFound" => {
            format!("the server could not find the requested resource (get {what})")
        }
        error => text_of(error),
    }
}

/// A `metav1.LabelSelector` (JSON) as text; empty for one that selects everything or is absent.
fn selector_text(selector: &Value) -> Result<String, String> {
    if selector.is_null() {
        return Ok(String::new());
    }
    let spec = LabelSelectorSpec::deserialize(selector).map_err(|error| error.to_string())?;
    spec.to_selector().map(|selector| selector.to_string()).map_err(|error| error.to_string())
}

/// Text as a part of a path or a query.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_pods_use_is_read_as_a_whole_or_of_one_container() {
        let container = |name: &str, usage: Value| json!({"name": name, "usage": usage});
        let list = || {
            let items = json!([
                {"metadata": {"name": "a"}, "timestamp": "2026-01-01T00:00:00Z", "window": "15s", "containers": [
                    container("main", json!({"cpu": "250000001n", "memory": "1Ki"})), container("side", json!({"cpu": "1m"})),
                ]},
                {"metadata": {"name": "b"}, "timestamp": "2026-01-01T00:00:00Z", "window": "1m30s", "containers": []},
            ]);
            serde_json::from_value::<PodMetricsList>(json!({"items": items})).unwrap()
        };
        let values = |resource: &str| -> Vec<(String, i64)> {
            let samples = samples(list(), "d", resource, None).unwrap();
            samples.into_iter().map(|(name, sample)| (name, sample.value)).collect()
        };
        assert_eq!(values("cpu"), [("a".to_owned(), 252)]);
        assert_eq!(values("memory"), [], "one of the containers does not say");
        let missing = samples(list(), "d", "cpu", Some("main")).unwrap_err();
        assert_eq!(missing, "failed to get container metrics: container main not present in metrics for pod d/b");
        let mut of_one = list();
        of_one.items.truncate(1);
        let sample = samples(of_one, "d", "memory", Some("main")).unwrap()["a"];
        assert_eq!((sample.value, sample.window), (1_024_000, Duration::from_secs(15)));
        let none = samples(PodMetricsList::default(), "d", "cpu", None).unwrap_err();
        assert_eq!(none, "no metrics returned from resource metrics API");
    }

    #[test]
    fn a_selector_is_a_part_of_a_path() {
        assert_eq!(encoded("app in (a,b),!x"), "app%20in%20%28a%2Cb%29%2C%21x");
        assert_eq!(selector_text(&json!({"matchLabels": {"app": "web"}})).unwrap(), "app=web");
        assert_eq!(selector_text(&Value::Null).unwrap(), "");
    }
}
