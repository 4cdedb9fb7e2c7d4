//! The images of the node: what `selvedge image` requests over the status socket, archives that are imported at the start, and
//! space for new ones.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base_http::{Body, read_body, respond};
use base_observe::spawn_blocking_named;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use node_agent::node_status::{ListImages, NodeImage};
use node_client::{EventRecorder, StatusRegistry, chain};
use node_pods::Pods;
use node_runtime::{CollectError, ExportError, ImageInfo, NodeImages, RemoveError, RemoveImageError, RuntimeError};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// What requests about images begin with.
pub(crate) const PATH: &str = "/images";

/// Largest answer: some thousand images with their names.
pub const IMAGES_BYTES_MAX: usize = 16 << 20;

/// Two names and a path.
const REQUEST_BYTES_MAX: usize = 64 << 10;

/// How often the disk is looked at, as with other kubelets.
const GC_PERIOD: Duration = Duration::from_secs(300);

/// What is requested of one image or archive.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageRequest {
    /// Its name or id; not needed to import.
    pub image: String,
    /// Absolute path of the archive, to import and export.
    pub path: PathBuf,
}

/// Images, as the status socket answers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageList {
    /// All of them, or those that were imported.
    pub images: Vec<ImageInfo>,
}

/// What was removed, as the status socket answers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImagesRemoved {
    /// Ids; none when the image has other names.
    pub images: Vec<String>,
    /// Of files.
    pub bytes_freed: u64,
}

/// Why nothing was done, as the status socket answers.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageError {
    /// With its causes.
    pub error: String,
}

type Answer = Result<Response<Body>, (StatusCode, String)>;

/// Answers a request about images, or why there are none.
pub(crate) async fn answer(
    request: Request<Incoming>,
    images: Result<&Arc<NodeImages>, &str>,
    shutdown: &CancellationToken,
) -> Response<Body> {
    let done = match images {
        // A pull would hold up the drain; what it has fetched is kept for the next.
        Ok(images) => shutdown.run_until_cancelled(perform(request, images)).await.unwrap_or_else(|| {
            Err((StatusCode::SERVICE_UNAVAILABLE, "the node is stopping; try again when it runs".to_owned()))
        }),
        Err(why) => Err((StatusCode::CONFLICT, format!("this node runs no container images: {why}"))),
    };
    done.unwrap_or_else(|(status, error)| respond::json(status, &ImageError { error }))
}

async fn perform(request: Request<Incoming>, images: &Arc<NodeImages>) -> Answer {
    let action = request.uri().path().strip_prefix(PATH).unwrap_or_default().to_owned();
    let images = images.clone();
    if request.method() == Method::GET && action.is_empty() {
        return blocking(move || Ok(respond::json(StatusCode::OK, &ImageList { images: images.list() }))).await;
    }
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "images are listed with GET, all else is a POST".to_owned()));
    }
    let body = read_body(request.into_body(), REQUEST_BYTES_MAX).await;
    let body = body.map_err(|error| (StatusCode::BAD_REQUEST, chain(&error)))?;
    let asked = serde_json::from_slice(&body).map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()));
    let ImageRequest { image, path } = asked?;
    if !path.as_os_str().is_empty() && !path.is_absolute() {
        return Err((StatusCode::BAD_REQUEST, format!("{} is not an absolute path", path.display())));
    }
    match action.as_str() {
        "/pull" => match images.pull_named(&image).await {
            Ok(pulled) => Ok(respond::json(StatusCode::OK, &ImageList { images: vec![pulled] })),
            Err(error @ RuntimeError::ImageName { .. }) => Err((StatusCode::BAD_REQUEST, chain(&error))),
            Err(error) => Err((StatusCode::BAD_GATEWAY, chain(&error))),
        },
        "/import" => blocking(move || import(&images, &path)).await,
        "/export" => blocking(move || export(&images, &image, &path)).await,
        "/remove" => blocking(move || remove(&images, &image)).await,
        _ => Err((StatusCode::NOT_FOUND, "try /images/pull, import, export or remove".to_owned())),
    }
}

fn import(images: &NodeImages, path: &std::path::Path) -> Answer {
    let imported = images.import(path).map_err(|error| (StatusCode::UNPROCESSABLE_ENTITY, chain(&error)))?;
    Ok(respond::json(StatusCode::OK, &ImageList { images: imported }))
}

fn export(images: &NodeImages, image: &str, path: &std::path::Path) -> Answer {
    let status = |error: &ExportError| match error {
        ExportError::NotFound { .. } => StatusCode::NOT_FOUND,
        ExportError::Name(_) => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    images.export(image, path).map_err(|error| (status(&error), chain(&error)))?;
    Ok(respond::json(StatusCode::OK, &ImageList::default()))
}

fn remove(images: &NodeImages, image: &str) -> Answer {
    let status = |error: &RemoveImageError| match error {
        RemoveImageError::InUse { .. } => StatusCode::CONFLICT,
        RemoveImageError::UsersUnknown(_) => StatusCode::SERVICE_UNAVAILABLE,
        RemoveImageError::Store(RemoveError::NotFound { .. }) => StatusCode::NOT_FOUND,
        RemoveImageError::Store(RemoveError::Name(_)) => StatusCode::BAD_REQUEST,
        RemoveImageError::Store(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let removed = images.remove(image).map_err(|error| (status(&error), chain(&error)))?;
    Ok(respond::json(StatusCode::OK, &ImagesRemoved { images: removed.images, bytes_freed: removed.bytes_freed }))
}

/// Runs what waits for the disk beside the tasks.
async fn blocking(work: impl FnOnce() -> Answer + Send + 'static) -> Answer {
    let done = spawn_blocking_named("images", work).await;
    done.unwrap_or_else(|error| Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())))
}

/// Lists images for the Node's status.
pub(crate) fn of_node(images: Arc<NodeImages>) -> ListImages {
    Arc::new(move || {
        let named = |image: ImageInfo| NodeImage {
            names: image.repo_digests.into_iter().chain(image.names).collect(),
            size_bytes: image.size_bytes,
        };
        images.list().into_iter().map(named).collect()
    })
}

/// What [`keep`] works with.
pub(crate) struct Keeping {
    pub images: Arc<NodeImages>,
    pub data_dir: PathBuf,
    pub node: String,
    pub events: EventRecorder,
    pub registry: StatusRegistry,
    pub shutdown: CancellationToken,
}

/// Has pods that wait for an image look for it whenever some have come, until the kubelet stops.
pub(crate) async fn pass_on(images: Arc<NodeImages>, pods: Pods, shutdown: CancellationToken) {
    let mut added = images.added();
    while let Some(Ok(())) = shutdown.run_until_cancelled(added.changed()).await {
        pods.images_added().await;
    }
}

/// Imports the archives of `DATA_DIR/images`, then deletes unused images whenever the disk is too full, until the kubelet stops.
pub(crate) async fn keep(keeping: Arc<Keeping>) {
    let (dir, record) = (keeping.data_dir.join("images"), keeping.data_dir.join("node/images-imported.json"));
    let (images, shutdown) = (keeping.images.clone(), keeping.shutdown.clone());
    let import = move || node_runtime::import_archives(&images, &dir, &record, &|| shutdown.is_cancelled());
    // A large archive is not waited for at the end: it is begun anew by the next start.
    let imported = keeping.shutdown.run_until_cancelled(spawn_blocking_named("image-archives", import)).await;
    for mistake in imported.and_then(Result::ok).unwrap_or_default() {
        warn!(error = %mistake, "An archive of images was not imported.");
        keeping.registry.error(mistake);
    }
    let mut has_failed = false;
    loop {
        let images = keeping.images.clone();
        let collected = spawn_blocking_named("image-gc", move || images.collect_garbage()).await;
        has_failed = match collected {
            Ok(Err(error)) => {
                report(&keeping, &error, has_failed);
                true
            }
            // A panic was logged where it was.
            Ok(Ok(_)) | Err(_) => false,
        };
        tokio::select! {
            () = keeping.shutdown.cancelled() => return,
            () = tokio::time::sleep(GC_PERIOD) => {}
        }
    }
}

/// As other kubelets do: the second failure in a row is an event of its own.
fn report(keeping: &Keeping, error: &CollectError, has_failed: bool) {
    let text = chain(error);
    warn!(error = %text, "The disk of the images is too full.");
    keeping.registry.error(format!("images: {text}"));
    if matches!(error, CollectError::Insufficient { .. }) {
        keeping.events.node(&keeping.node, true, "FreeDiskSpaceFailed", text.clone());
    }
    if has_failed {
        keeping.events.node(&keeping.node, true, "ImageGCFailed", text);
    }
}
