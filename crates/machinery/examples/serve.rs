//! A Kubernetes API in thirty lines: objects in memory, an administrator's kubeconfig in a file.
//!
//! ```sh
//! cargo run -p machinery --example serve -- /tmp/kubeconfig
//! kubectl --kubeconfig /tmp/kubeconfig get namespaces
//! ```

use std::net::{Ipv4Addr, SocketAddr};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("usage: serve KUBECONFIG")?;
    let api = machinery::Api::in_memory().await?;
    let kubeconfig = api.serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    kubeconfig.write(&path)?;
    println!("serving {}\nkubectl --kubeconfig {path} get namespaces", kubeconfig.url);
    tokio::signal::ctrl_c().await?;
    Ok(())
}
