//! What the API serves, custom kinds among it, as it was found out last.
//!
//! Finding it out takes many requests and some time, and a definition may come or go meanwhile. So a result is kept only
//! when nothing was [forgotten](Served::forget) while it was on its way; whoever needed it has it all the same.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Kinds come without a definition as well, from an API server that is aggregated: what was found out is this old at most.
const AGE_MAX: Duration = Duration::from_secs(60);

/// What was found out, if that still holds.
pub(crate) struct Served<T> {
    state: Mutex<State<T>>,
}

struct State<T> {
    /// How often it was forgotten.
    generation: u64,
    found: Option<(Arc<T>, Instant)>,
}

impl<T> Default for Served<T> {
    fn default() -> Self {
        Self { state: Mutex::new(State { generation: 0, found: None }) }
    }
}

impl<T> Served<T> {
    /// A definition has changed: what is known, and what is being found out now, holds no more.
    pub fn forget(&self) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.found = None;
    }

    /// What is known; found out with `discover` when nothing is.
    pub async fn known<E>(&self, discover: impl Future<Output = Result<T, E>>) -> Result<Arc<T>, E> {
        let known = self.state.lock().found.clone();
        match known {
            Some((found, since)) if since.elapsed() <= AGE_MAX => Ok(found),
            _ => self.afresh(discover).await,
        }
    }

    /// What is served now, whatever is known.
    pub async fn afresh<E>(&self, discover: impl Future<Output = Result<T, E>>) -> Result<Arc<T>, E> {
        let (generation, since) = (self.state.lock().generation, Instant::now());
        let found = Arc::new(discover.await?);
        let mut state = self.state.lock();
        if state.generation == generation {
            state.found = Some((found.clone(), since));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found out: `text`, while a definition changes or not.
    async fn discover(served: &Served<&'static str>, text: &'static str, changes: bool) -> Result<&'static str, ()> {
        if changes {
            served.forget();
        }
        Ok(text)
    }

    #[tokio::test(start_paused = true)]
    async fn a_definition_that_comes_meanwhile_is_not_forgotten() {
        let served = Served::default();
        assert_eq!(*served.known(discover(&served, "without", true)).await.unwrap(), "without");
        assert_eq!(*served.known(discover(&served, "with", false)).await.unwrap(), "with");
        assert_eq!(*served.known(discover(&served, "not asked", false)).await.unwrap(), "with");
        assert_eq!(*served.afresh(discover(&served, "asked", false)).await.unwrap(), "asked");
        tokio::time::advance(AGE_MAX + Duration::from_secs(1)).await;
        assert_eq!(*served.known(discover(&served, "later", false)).await.unwrap(), "later");
    }
}
