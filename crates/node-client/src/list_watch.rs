//! A list in pages, then a watch from where it ended, and again when the watch breaks.
//!
//! ```text
//! list ──page──page──page──▶ replace ──▶ watch ──event──▶ apply, delete ──┐
//!   ▲                                     ▲      end in good order ───────┤
//!   └──── 410, unreadable ────────────────┴──── outage: from the last revision
//! ```
//!
//! - A page is sized by what it costs the link: ten objects at first, then what fits in [`PAGE_BYTES`]. Pages that came are kept over
//!   an outage, and the list continues after them, so a link that breaks every minute gets through a list of ten.
//! - An answer that is no list of the kind, or names objects that were not requested, changes nothing: the reflector continues with
//!   what it has, reports it, and asks again after a pause.
//! - How this compares with kube-runtime's watcher, and why it is our own: `docs/adr/0010-list-watch.md`.

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::client::{ApiClient, ApiError, Event};
use crate::object::{Malformed, Object};
use crate::{StatusRegistry, chain};

/// How long a watch is asked to last; the hub ends it in good order and it is opened anew from where it was.
const WATCH_SECONDS: u64 = 1800;
/// Objects in the first page: some 36 KB of pods, five seconds at 64 kbit/s.
const PAGE_ITEMS_FIRST: usize = 10;
/// What a page should cost the link: eight seconds at 64 kbit/s, below which a lease must be renewed.
const PAGE_BYTES: usize = 64 * 1024;
/// Objects in any page.
const PAGE_ITEMS_MAX: usize = 500;
/// After something could not be kept, the disk may have space again.
const RELIST_AFTER: std::time::Duration = std::time::Duration::from_secs(30);
/// Objects of one list. A node has some hundred pods; more is no list for this node.
const LIST_ITEMS_MAX: usize = 20_000;

/// Follows the objects of one path.
pub trait Reflector: Send {
    /// Why a change could not be kept; it is then not acted on.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Path of the list, with its selectors.
    fn path(&self) -> String;

    /// Kind of its objects.
    fn kind(&self) -> &'static str;

    /// Whether an object is one that was requested; a list or event with one that is not is rejected as a whole.
    ///
    /// # Errors
    /// Why it is not.
    fn check(&self, _object: &Object) -> Result<(), Malformed> {
        Ok(())
    }

    /// Called before anything of a connection is believed.
    fn verify(&mut self, _client: &ApiClient) -> impl Future<Output = Result<(), ApiError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Whether something could not be kept and is to be listed again, while what can be acted on without is acted on.
    fn is_incomplete(&self) -> bool {
        false
    }

    /// The whole list, as of this revision.
    fn replace(
        &mut self,
        items: Vec<Object>,
        resource_version: &str,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// One object was created or changed.
    fn apply(&mut self, object: Object) -> impl Future<Output = Result<(), Self::Error>> + Send;

    /// One object was deleted; this is its last state.
    fn delete(&mut self, object: Object) -> impl Future<Output = Result<(), Self::Error>> + Send;
}

/// Where a reflector is in the stream of changes.
#[derive(Debug, Default)]
struct Position {
    /// Everything up to here is known.
    since: Option<String>,
    /// A list that is under way.
    partial: Partial,
    /// Objects in the next page.
    page_items: usize,
}

#[derive(Debug, Default)]
struct Partial {
    items: Vec<Object>,
    continue_token: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum FollowError<E: std::error::Error + 'static> {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("failed to keep what the hub sent; it is not acted on until it is kept")]
    Keep(#[source] E),
    #[error("the hub requires a new list")]
    Expired,
}

impl<E: std::error::Error> FollowError<E> {
    fn is_outage(&self) -> bool {
        matches!(self, Self::Api(error) if error.is_outage())
    }
}

/// Lists and watches until `shutdown`.
pub async fn run<R: Reflector>(
    mut client: ApiClient,
    mut reflector: R,
    registry: StatusRegistry,
    shutdown: CancellationToken,
) {
    let mut retry = client.retry();
    let mut position = Position { page_items: PAGE_ITEMS_FIRST, ..Position::default() };
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = client.connected() => {}
        }
        retry.attempt();
        let result = tokio::select! {
            () = shutdown.cancelled() => return,
            result = follow(&client, &mut reflector, &mut position) => result,
        };
        let Err(error) = result else {
            retry.succeeded();
            continue;
        };
        // The position is only good while nothing was missed.
        if !error.is_outage() {
            position.since = None;
            position.partial = Partial::default();
        }
        let failures = retry.failures();
        let text = chain(&error);
        if matches!(error, FollowError::Expired) {
            debug!(path = %reflector.path(), "The hub requires a new list.");
        } else if error.is_outage() {
            if failures == 0 {
                debug!(path = %reflector.path(), error = %text, "A watch ended.");
            }
        } else {
            if failures == 0 {
                warn!(path = %reflector.path(), error = %text, "Failed to follow the hub; trying again.");
            }
            registry.error(text);
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = retry.pause() => {}
        }
    }
}

async fn follow<R: Reflector>(
    client: &ApiClient,
    reflector: &mut R,
    position: &mut Position,
) -> Result<(), FollowError<R::Error>> {
    reflector.verify(client).await?;
    if position.since.is_none() {
        list(client, reflector, position).await?;
    }
    let Some(since) = position.since.clone() else { return Err(FollowError::Expired) };
    let path = with_query(
        &reflector.path(),
        &format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={since}"),
    );
    let mut watch = match client.watch(&path, reflector.kind()).await {
        Err(error) if error.code() == Some(410) => return Err(FollowError::Expired),
        other => other?,
    };
    loop {
        let next = match reflector.is_incomplete() {
            true => tokio::time::timeout(RELIST_AFTER, watch.next()).await.unwrap_or(Ok(None)),
            false => watch.next().await,
        };
        let Some(event) = next? else { break };
        match event {
            Event::Bookmark(version) => position.since = Some(version),
            Event::Error { code: 410, .. } => return Err(FollowError::Expired),
            Event::Error { code, message } => {
                position.since = None;
                let act = format!("watch {}", reflector.path());
                return Err(ApiError::Status { act, code, reason: String::new(), message, fields: Vec::new() }.into());
            }
            Event::Applied(object) => {
                check(reflector, &object)?;
                let version = object.resource_version().to_owned();
                reflector.apply(object).await.map_err(FollowError::Keep)?;
                position.since = Some(version);
            }
            Event::Deleted(object) => {
                check(reflector, &object)?;
                let version = object.resource_version().to_owned();
                reflector.delete(object).await.map_err(FollowError::Keep)?;
                position.since = Some(version);
            }
        }
    }
    if reflector.is_incomplete() {
        position.since = None;
    }
    Ok(())
}

fn check<R: Reflector>(reflector: &R, object: &Object) -> Result<(), ApiError> {
    reflector.check(object).map_err(|error| ApiError::unreadable(format!("watch {}", reflector.path()), &error))
}

async fn list<R: Reflector>(
    client: &ApiClient,
    reflector: &mut R,
    position: &mut Position,
) -> Result<(), FollowError<R::Error>> {
    loop {
        let mut query = format!("limit={}", position.page_items);
        if let Some(token) = &position.partial.continue_token {
            query.push_str(&format!("&continue={}", crate::encode(token)));
        }
        let page = match client.list(&with_query(&reflector.path(), &query), reflector.kind()).await {
            // The pages that came are of a revision that the hub has forgotten.
            Err(error) if error.code() == Some(410) => return Err(FollowError::Expired),
            other => other?,
        };
        let unusable = |message: String| ApiError::Unreadable { act: format!("GET {}", reflector.path()), message };
        for (index, item) in page.list.items.iter().enumerate() {
            let checked = item.require_uid().and_then(|()| reflector.check(item));
            checked.map_err(|reason| unusable(Malformed::Item { index, reason: Box::new(reason) }.to_string()))?;
        }
        position.page_items = next_page(position.page_items, page.list.items.len(), page.wire_bytes);
        position.partial.items.extend(page.list.items);
        if position.partial.items.len() > LIST_ITEMS_MAX {
            return Err(unusable(format!("the list has more than {LIST_ITEMS_MAX} items")).into());
        }
        position.partial.continue_token = page.list.continue_token;
        if position.partial.continue_token.is_none() {
            let items = std::mem::take(&mut position.partial).items;
            reflector.replace(items, &page.list.resource_version).await.map_err(FollowError::Keep)?;
            position.since = Some(page.list.resource_version);
            return Ok(());
        }
    }
}

/// How many objects the next page should have, after one of `items` objects that took `bytes`.
fn next_page(limit: usize, items: usize, bytes: usize) -> usize {
    let fitting = match items {
        0 => limit,
        _ => items.saturating_mul(PAGE_BYTES) / bytes.max(1),
    };
    // Twice as many at most: the next objects may be larger than these.
    fitting.clamp(1, limit.saturating_mul(2)).min(PAGE_ITEMS_MAX)
}

/// A path with one more query.
pub(crate) fn with_query(path: &str, query: &str) -> String {
    format!("{path}{}{query}", if path.contains('?') { '&' } else { '?' })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_sized_by_what_it_costs_the_link() {
        for (limit, items, bytes, next) in
            [(10, 10, 36_000, 18), (10, 10, 1_000, 20), (10, 10, 655_360, 1), (400, 400, 4_000, 500), (10, 0, 90, 10)]
        {
            assert_eq!(next_page(limit, items, bytes), next, "{items} of {limit} in {bytes} B");
        }
    }
}
