//! Files of a volume that are in each other's way.

use serde_json::Value;

use crate::kit::Read;

/// A file of a volume, and where it is from.
#[derive(PartialEq, Eq)]
struct File {
    path: String,
    source: String,
}

impl File {
    fn of(path: &str, source: &str) -> Self {
        Self { path: path.trim_end_matches('/').to_owned(), source: source.to_owned() }
    }

    fn shown(&self) -> String {
        if self.source.is_empty() { format!("{:?}", self.path) } else { format!("{:?} ({})", self.path, self.source) }
    }

    fn is_in_the_way_of(&self, other: &Self) -> bool {
        let (one, two) = (format!("{}/", self.path), format!("{}/", other.path));
        !self.path.is_empty() && !other.path.is_empty() && (one.starts_with(&two) || two.starts_with(&one))
    }
}

pub(super) fn collect(volumes: &[Value], warnings: &mut Vec<String>) {
    for volume in volumes {
        let name = volume.text("name");
        for (key, kind) in [("configMap", "ConfigMap"), ("secret", "Secret"), ("downwardAPI", "DownwardAPI")] {
            let Some(source) = volume.some(key) else { continue };
            let what = match key {
                "configMap" => format!("{kind} {:?}", source.text("name")),
                "secret" => format!("{kind} {:?}", source.text("secretName")),
                _ => kind.to_owned(),
            };
            let files = source.items("items").iter().map(|item| File::of(item.text("path"), ""));
            overlaps(name, &what, files.collect(), warnings);
        }
        if let Some(projected) = volume.some("projected") {
            overlaps(name, "Projected", projected_files(name, projected, warnings), warnings);
        }
    }
}

fn projected_files(name: &str, projected: &Value, warnings: &mut Vec<String>) -> Vec<File> {
    let mut files = Vec::new();
    for source in projected.items("sources") {
        if source.as_object().is_none_or(serde_json::Map::is_empty) {
            warnings.push(format!("volume {name:?} (Projected) has no sources provided"));
            continue;
        }
        let mut add = |items: &Value, what: String| {
            files.extend(items.items("items").iter().map(|item| File::of(item.text("path"), &what)));
        };
        if let Some(map) = source.some("configMap").filter(|map| map.has("items")) {
            add(map, format!("ConfigMap {:?}", map.text("name")));
        } else if let Some(secret) = source.some("secret").filter(|secret| secret.has("items")) {
            add(secret, format!("Secret {:?}", secret.text("name")));
        } else if let Some(api) = source.some("downwardAPI").filter(|api| api.has("items")) {
            add(api, "DownwardAPI".to_owned());
        } else if let Some(token) = source.some("serviceAccountToken") {
            files.push(File::of(token.text("path"), "ServiceAccountToken"));
        } else if let Some(bundle) = source.some("clusterTrustBundle") {
            let name = if bundle.has("name") { bundle.text("name") } else { bundle.text("signerName") };
            files.push(File::of(bundle.text("path"), &format!("ClusterTrustBundle {name:?}")));
        }
    }
    files
}

fn overlaps(volume: &str, what: &str, files: Vec<File>, warnings: &mut Vec<String>) {
    for (number, file) in files.iter().enumerate() {
        for other in files[..number].iter().filter(|other| file.is_in_the_way_of(other)) {
            warnings.push(format!(
                "volume {volume:?} ({what}): overlapping paths: {} with {}",
                file.shown(),
                other.shown()
            ));
        }
    }
}
