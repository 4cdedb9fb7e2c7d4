//! All of it together: what a server is given, and what runs beside it.

use std::sync::Arc;

use machinery_server::{
    Admission, Authenticator, Authorizer, BootstrapTokenAuthenticator, CertificateAuthenticator, Extension, Server,
    ServerConfig, SystemMasters, Union, VirtualResource,
};
use tokio_util::sync::CancellationToken;

use crate::admission::{
    ClaimResize, DefaultClasses, DefaultTolerations, NodeFeatures, NotReadyTaint, Priority, RuntimeClasses,
    ServiceAccounts, TopologyLabels, Unenforced, UseProtection,
};
use crate::certificates::Certificates;
use crate::client::RequestError;
use crate::node::{NodeAuthorizer, NodeRestriction};
use crate::rbac::{Escalation, Rbac};
use crate::tokens::{Issuer, IssuerConfiguration, KeySet, TokenAuthenticator, TokenRequests};
use crate::{bootstrap, controllers};

/// How a cluster is guarded.
#[derive(Clone, Debug)]
pub struct AccessOptions {
    /// Issues and recognises tokens of service accounts.
    pub issuer: Arc<Issuer>,
    /// Whether callers without credentials are judged as `system:anonymous` instead of being rejected.
    pub anonymous: bool,
    /// The certificate by which clients in pods know the API, PEM; published in every namespace when it is given.
    pub root_ca: Option<Arc<str>>,
    /// Whether a token is mounted into pods that do not say otherwise. A kubelet that knows of no tokens would not start them.
    pub mounts_tokens: bool,
    /// Whether [`Access::run`] runs beside the server: a pod need not wait until its namespace has its service account.
    pub furnishes_namespaces: bool,
    /// Whether creating a kind that nothing enforces is answered with a warning. kube-apiserver has none of these.
    pub warns_of_unenforced: bool,
}

impl AccessOptions {
    /// As kube-apiserver by default.
    pub fn new(issuer: Arc<Issuer>) -> Self {
        Self {
            issuer,
            anonymous: true,
            root_ca: None,
            mounts_tokens: true,
            furnishes_namespaces: true,
            warns_of_unenforced: true,
        }
    }
}

/// Authenticators, authorizers, plug-ins and controllers of one cluster.
pub struct Access {
    options: AccessOptions,
    rbac: Rbac,
}

impl Access {
    /// For one server.
    pub fn new(options: AccessOptions) -> Self {
        Self { options, rbac: Rbac::default() }
    }

    /// Certificates, bootstrap tokens and tokens of service accounts.
    pub fn authenticators(&self) -> Vec<Arc<dyn Authenticator>> {
        vec![
            Arc::new(CertificateAuthenticator),
            Arc::<BootstrapTokenAuthenticator>::default(),
            Arc::new(TokenAuthenticator::new(self.options.issuer.clone())),
        ]
    }

    /// Administrators, nodes, and everybody by roles; what comes before is asked first.
    pub fn authorizers(&self, before: Vec<Arc<dyn Authorizer>>) -> Vec<Arc<dyn Authorizer>> {
        let mut authorizers: Vec<Arc<dyn Authorizer>> = vec![Arc::new(SystemMasters)];
        authorizers.extend(before);
        authorizers.push(Arc::new(NodeAuthorizer));
        authorizers.push(Arc::new(self.rbac.clone()));
        authorizers
    }

    /// The authorizer by roles.
    pub fn rbac(&self) -> Rbac {
        self.rbac.clone()
    }

    /// The plug-ins that kube-apiserver has on by default, in its order; `authorizer` decides about escalation, signers and
    /// audiences.
    pub fn admission(&self, authorizer: &Union) -> Vec<Arc<dyn Admission>> {
        let mut plugins = self.admission_with(Arc::new(NodeRestriction::new(authorizer.clone())), authorizer);
        if self.options.warns_of_unenforced {
            plugins.push(Arc::new(Unenforced::default()));
        }
        plugins
    }

    /// The same for a server whose nodes are held by a rule of its own, and without [`Unenforced`].
    pub fn admission_with(&self, nodes: Arc<dyn Admission>, authorizer: &Union) -> Vec<Arc<dyn Admission>> {
        vec![
            Arc::new(self.service_accounts()),
            nodes,
            Arc::new(NotReadyTaint),
            Arc::new(Priority),
            Arc::new(DefaultTolerations),
            Arc::new(DefaultClasses),
            Arc::new(UseProtection),
            Arc::new(NodeFeatures),
            Arc::new(ClaimResize),
            Arc::new(RuntimeClasses),
            Arc::new(Certificates::new(authorizer.clone())),
            Arc::new(TopologyLabels),
            // In upstream it is part of the storage of roles, which comes after all plug-ins that change something.
            Arc::new(self.escalation(authorizer)),
        ]
    }

    /// The plug-in that gives pods their service account.
    pub fn service_accounts(&self) -> ServiceAccounts {
        ServiceAccounts {
            mounts_tokens: self.options.mounts_tokens,
            is_default_coming: self.options.furnishes_namespaces,
        }
    }

    /// Keeps whoever writes roles from granting what it does not hold; `authorizer` decides who may all the same.
    pub fn escalation(&self, authorizer: &Union) -> Escalation {
        Escalation::new(self.rbac.index(), authorizer.clone())
    }

    /// Who issues tokens.
    pub fn issuer(&self) -> &Arc<Issuer> {
        &self.options.issuer
    }

    /// OpenID discovery, for whoever verifies tokens in other places.
    pub fn extensions(&self, address: &str) -> Vec<Arc<dyn Extension>> {
        let issuer = self.options.issuer.clone();
        vec![
            Arc::new(IssuerConfiguration { issuer: issuer.clone(), address: address.to_owned() }),
            Arc::new(KeySet(issuer)),
        ]
    }

    /// What is answered and not stored.
    pub fn virtual_resources(&self) -> Vec<Arc<dyn VirtualResource>> {
        vec![Arc::new(TokenRequests::new(self.options.issuer.clone()))]
    }

    /// A server's configuration with all of it, in place of the authenticators and authorizers that it had; plug-ins,
    /// extensions and virtual resources that it has come after.
    #[must_use]
    pub fn configure(&self, mut config: ServerConfig) -> ServerConfig {
        config.authenticators = self.authenticators();
        config.authorizers = self.authorizers(Vec::new());
        config.anonymous = self.options.anonymous;
        config.audiences = self.options.issuer.audiences.clone();
        let authorizer = Union::new(config.authorizers.clone());
        config.admission.splice(0..0, self.admission(&authorizer));
        config.extensions.splice(0..0, self.extensions(&config.address));
        config.virtual_resources.splice(0..0, self.virtual_resources());
        config
    }

    /// Creates what every cluster has, and completes what has been taken from the default roles. To be called once at the start.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn bootstrap(&self, server: &Server) -> Result<(), RequestError> {
        bootstrap::run(server, server.store()).await
    }

    /// Fills aggregated roles and keeps a service account and the CA's certificate in every namespace, until `shutdown`.
    pub async fn run(&self, server: Server, shutdown: CancellationToken) {
        let store = server.store().clone();
        let root_ca = self.options.root_ca.clone();
        tokio::join!(
            controllers::aggregate_roles(server.clone(), store.clone(), shutdown.clone()),
            controllers::furnish_namespaces(server, store, root_ca, shutdown),
        );
    }
}
