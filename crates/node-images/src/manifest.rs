//! What registries and layouts say of an image: index, manifest, configuration, platform.
//!
//! OCI's documents and Docker's schema 2 differ in media types only, so one set of types reads both. A document that could
//! be read as a manifest and as an index is rejected: what one reader verifies another would run (CVE-2021-41190).

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::Digest;

/// Upstream registries take no larger manifests.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;

/// Media types in the order of preference, for `Accept`.
pub const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// Why a document is none.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// It is no JSON, or lacks something.
    #[error("it is not valid")]
    Json(#[from] serde_json::Error),
    /// It is valid and makes no sense here.
    #[error("{0}")]
    Meaning(&'static str),
    /// Of an image for another machine, or of no image.
    #[error("it has nothing for {host}; it is for {found}")]
    Platform {
        /// What runs here.
        host: Platform,
        /// What it offers.
        found: String,
    },
}

/// Names a blob.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob is.
    #[serde(default)]
    pub media_type: String,
    /// Of the blob's bytes.
    pub digest: Digest,
    /// In bytes.
    pub size: u64,
    /// In an index: what the image is for.
    #[serde(default)]
    pub platform: Option<Platform>,
    /// In an index of a layout: its names.
    #[serde(default, deserialize_with = "null_as_default")]
    pub annotations: BTreeMap<String, String>,
}

/// A processor and operating system, in Go's words.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
pub struct Platform {
    /// `amd64`, `arm64`, `arm`.
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `v7` of `arm`.
    #[serde(default)]
    pub variant: Option<String>,
}

/// An index or a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Document {
    /// Images for several platforms.
    Index(Vec<Descriptor>),
    /// One image.
    Manifest(Manifest),
}

/// One image: its configuration and its layers, lowest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The blob whose digest is the image's id.
    pub config: Descriptor,
    /// Compressed archives.
    pub layers: Vec<Descriptor>,
}

/// How a container of an image is run, as far as the image says.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub struct ImageConfig {
    /// `NAME=value`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub env: Vec<String>,
    /// Words before those of `cmd`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub entrypoint: Vec<String>,
    /// What is run, or the arguments of the entrypoint.
    #[serde(default, deserialize_with = "null_as_default")]
    pub cmd: Vec<String>,
    /// `USER[:GROUP]`, by names or numbers; empty for root.
    #[serde(default, deserialize_with = "null_as_default")]
    pub user: String,
    /// Where it is run; empty for `/`.
    #[serde(default, deserialize_with = "null_as_default")]
    pub working_dir: String,
    /// `SIGTERM` or a number.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Paths that should be volumes.
    #[serde(default, deserialize_with = "keys")]
    pub volumes: Vec<String>,
    /// `8080/tcp`.
    #[serde(default, deserialize_with = "keys")]
    pub exposed_ports: Vec<String>,
    /// For people and their programs.
    #[serde(default, deserialize_with = "null_as_default")]
    pub labels: BTreeMap<String, String>,
}

/// The blob that [`Manifest::config`] names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigDocument {
    /// What the image is for.
    pub platform: Platform,
    /// How it is run.
    pub config: ImageConfig,
    /// Digests of the layers' content, lowest first.
    pub diff_ids: Vec<Digest>,
}

impl Document {
    /// Reads an index or a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Either {
            schema_version: u32,
            #[serde(default)]
            manifests: Option<Vec<Descriptor>>,
            #[serde(default)]
            config: Option<Descriptor>,
            #[serde(default)]
            layers: Option<Vec<Descriptor>>,
        }
        let found: Either = serde_json::from_slice(bytes)?;
        if found.schema_version != 2 {
            return Err(DocumentError::Meaning("its schema version is not 2, which registries have had since 2016"));
        }
        match (found.manifests, found.config, found.layers) {
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), layers) => {
                let manifest = Manifest { config, layers: layers.unwrap_or_default() };
                manifest.check().map(|()| Self::Manifest(manifest))
            }
            (None, None, _) => Err(DocumentError::Meaning("it is neither an index nor a manifest")),
            _ => Err(DocumentError::Meaning("it is both an index and a manifest")),
        }
    }
}

impl Manifest {
    fn check(&self) -> Result<(), DocumentError> {
        const CONFIGS: [&str; 3] =
            ["", "application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
        if !CONFIGS.contains(&self.config.media_type.as_str()) {
            return Err(DocumentError::Meaning("it is of an artifact and not of a container image"));
        }
        // How a layer is compressed is seen by its first bytes; here only what is no archive at all is rejected.
        let is_archive = |layer: &Descriptor| {
            let kind = layer.media_type.as_str();
            kind.is_empty() || (kind.contains("tar") && !kind.contains("encrypted"))
        };
        if self.layers.iter().all(is_archive) {
            Ok(())
        } else {
            Err(DocumentError::Meaning("a layer is no tar archive"))
        }
    }
}

impl ConfigDocument {
    /// Reads the configuration of an image.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        struct Whole {
            #[serde(flatten)]
            platform: Platform,
            #[serde(default, deserialize_with = "null_as_default")]
            config: ImageConfig,
            rootfs: RootFs,
        }
        #[derive(Deserialize)]
        struct RootFs {
            #[serde(default, deserialize_with = "null_as_default")]
            diff_ids: Vec<Digest>,
        }
        // It is kept as text, and a parser skips what it does not need without a look.
        let text = std::str::from_utf8(bytes).map_err(|_| DocumentError::Meaning("it is not UTF-8"))?;
        let whole: Whole = serde_json::from_str(text)?;
        Ok(Self { platform: whole.platform, config: whole.config, diff_ids: whole.rootfs.diff_ids })
    }
}

impl Platform {
    /// What this program runs on.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "x86" => ("386", None),
            "aarch64" => ("arm64", Some("v8".to_owned())),
            "arm" => ("arm", Some(arm_variant(rustix::system::uname().machine().to_str().unwrap_or_default()))),
            "riscv64" => ("riscv64", None),
            other => (other, None),
        };
        Self { architecture: architecture.to_owned(), os: "linux".to_owned(), variant }
    }

    /// How well an image for `offered` runs here: the lowest number is the best, `None` is not at all.
    fn rank(&self, offered: &Self) -> Option<u32> {
        let (host, offered) = (self.normalized(), offered.normalized());
        if host.os != offered.os || host.architecture != offered.architecture {
            return None;
        }
        // Newer processors run what is built for older ones; the newest that runs is the fastest.
        host.level().checked_sub(offered.level())
    }

    fn level(&self) -> u32 {
        let digits = self.variant.as_deref().and_then(|variant| variant.strip_prefix('v')).unwrap_or_default();
        // What is not known runs nowhere.
        if digits.is_empty() { 0 } else { digits.parse().unwrap_or(u32::MAX) }
    }

    /// One name for one thing, with the variant that is meant where none is written.
    fn normalized(&self) -> Self {
        let lower = self.architecture.to_ascii_lowercase();
        let written = self.variant.as_deref().map(str::to_ascii_lowercase).filter(|variant| !variant.is_empty());
        let with_v = written.map(|variant| if variant.starts_with('v') { variant } else { format!("v{variant}") });
        let (architecture, default) = match lower.as_str() {
            "x86_64" | "x86-64" | "amd64" => ("amd64", "v1"),
            "aarch64" | "arm64" => ("arm64", "v8"),
            "armhf" | "arm" => ("arm", "v7"),
            "armel" => ("arm", "v6"),
            "i386" | "386" => ("386", "v1"),
            other => (other, "v0"),
        };
        Self {
            architecture: architecture.to_owned(),
            os: self.os.to_ascii_lowercase(),
            variant: with_v.or_else(|| Some(default.to_owned())),
        }
    }

    /// Chooses from an index what runs best here.
    pub fn choose<'a>(&self, manifests: &'a [Descriptor]) -> Result<&'a Descriptor, DocumentError> {
        let ranked = manifests.iter().filter_map(|found| Some((self.rank(found.platform.as_ref()?)?, found)));
        if let Some((_, best)) = ranked.min_by_key(|(rank, _)| *rank) {
            return Ok(best);
        }
        // Layouts of one image often leave the platform to its configuration, which is looked at as well.
        let unnamed = manifests.iter().find(|found| found.platform.is_none());
        unnamed.ok_or_else(|| {
            let found = manifests.iter().filter_map(|found| Some(found.platform.as_ref()?.to_string()));
            // Enough for people to see that theirs is not among them.
            let found: Vec<String> = found.filter(|name| !name.contains("unknown")).take(16).collect();
            let found = if found.is_empty() { "no platform at all".to_owned() } else { found.join(", ") };
            DocumentError::Platform { host: self.clone(), found }
        })
    }

    /// Whether the configuration of an image is for this platform. Old images that do not say are taken.
    pub fn check(&self, offered: &Self) -> Result<(), DocumentError> {
        let offered_os = if offered.os.is_empty() { "linux" } else { &offered.os };
        let completed = Self { os: offered_os.to_owned(), ..offered.clone() };
        if offered.architecture.is_empty() || self.rank(&completed).is_some() {
            return Ok(());
        }
        Err(DocumentError::Platform { host: self.clone(), found: offered.to_string() })
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(formatter, "/{variant}"),
            _ => Ok(()),
        }
    }
}

impl Serialize for Platform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// By the machine's name: `armv6l`, `armv7l`; 64-bit kernels say `aarch64` or `armv8l` to 32-bit programs, which run v7's.
fn arm_variant(machine: &str) -> String {
    let digit = machine.strip_prefix("armv").and_then(|rest| rest.chars().next()).filter(char::is_ascii_digit);
    format!("v{}", digit.unwrap_or('7').min('7'))
}

/// Go writes `null` for what is empty.
fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// Sets are objects whose values say nothing.
fn keys<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let found = Option::<BTreeMap<String, serde::de::IgnoredAny>>::deserialize(deserializer)?;
    Ok(found.unwrap_or_default().into_keys().collect())
}

#[cfg(test)]
mod tests;
