//! A hub with its controllers in the test's own process.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use hub_controllers::{Authorities, ControllersConfig, NamePolicy};
use hub_runtime::Manager;
use hub_runtime::kinds::Kind;
use machinery_access::{NotReadyTaint, UseProtection};
use machinery_server::ServerConfig;
use serde_json::json;

pub(crate) use hub_testing::{Source, condition, name_of};

pub(crate) struct Hub {
    hub: hub_testing::Hub,
    pub(crate) serving_ca: Arc<base_pki::Ca>,
}

impl Deref for Hub {
    type Target = hub_testing::Hub;

    fn deref(&self) -> &Self::Target {
        &self.hub
    }
}

impl DerefMut for Hub {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.hub
    }
}

impl Hub {
    pub(crate) async fn start() -> Self {
        let mut hub = Self::without_controllers().await;
        hub.start_controllers(Source::Store).await;
        hub
    }

    /// A hub with all its kinds, in which nothing happens by itself yet.
    pub(crate) async fn without_controllers() -> Self {
        let hub = hub_testing::Hub::new(|config| ServerConfig {
            authorizers: hub_policy::authorizers(),
            admission: vec![Arc::new(NotReadyTaint), Arc::new(UseProtection)],
            garbage_collected: hub_controllers::collects,
            ..config
        });
        hub_controllers::bootstrap(&hub.client()).await.expect("a new hub takes what it needs");
        Self { hub, serving_ca: Arc::new(base_pki::Ca::create("serving").expect("a CA can be made")) }
    }

    pub(crate) async fn start_controllers(&mut self, source: Source) {
        let config = ControllersConfig {
            authorities: Authorities {
                client: Arc::new(base_pki::Ca::create("client").expect("a CA can be made")),
                serving: self.serving_ca.clone(),
            },
            names: NamePolicy { hub_names: vec!["hub.example.com".into()] },
        };
        let start =
            async |manager: &Manager| hub_controllers::start(manager, config).await.expect("the controllers start");
        self.hub.run(source, &[hub_controllers::READ], start).await;
    }

    pub(crate) async fn stop(self) {
        self.hub.stop().await;
    }

    /// A join token for one box.
    pub(crate) async fn token(&self, id: &str) {
        let name = format!("bootstrap-token-{id}");
        let secret = json!({
            "metadata": {"name": name, "namespace": "kube-system"}, "type": "bootstrap.kubernetes.io/token",
            "stringData": {"token-id": id, "registration-labels": "site=hall-2"},
        });
        self.make(Kind::Secret, secret).await;
    }
}
