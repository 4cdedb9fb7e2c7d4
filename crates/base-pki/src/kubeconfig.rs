//! A kubeconfig with everything inside, so that it can be copied to another machine.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A kubeconfig for `server` (an `https://` URL), its CA and a client certificate with its key (all PEM).
/// Keep it with [`crate::write_private`]: it holds the key.
pub fn kubeconfig(server: &str, ca_pem: &str, cert_pem: &str, key_pem: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: selvedge\n  cluster:\n    server: {server}\n    certificate-authority-data: {}\n\
         users:\n\
         - name: selvedge\n  user:\n    client-certificate-data: {}\n    client-key-data: {}\n\
         contexts:\n\
         - name: selvedge\n  context:\n    cluster: selvedge\n    user: selvedge\n\
         current-context: selvedge\n",
        STANDARD.encode(ca_pem),
        STANDARD.encode(cert_pem),
        STANDARD.encode(key_pem),
    )
}
