//! The few settings of the kernel that are files: whether this machine forwards packets.

use std::{fs, io};

use tracing::warn;

use crate::Notice;

pub const FORWARD_IPV4: &str = "net.ipv4.ip_forward";
pub const FORWARD_IPV6: &str = "net.ipv6.conf.all.forwarding";

fn setting_path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

pub fn read_setting(name: &str) -> Option<String> {
    fs::read_to_string(setting_path(name)).ok().map(|value| value.trim().to_owned())
}

pub fn write_setting(name: &str, value: &str) -> io::Result<()> {
    fs::write(setting_path(name), value)
}

/// Makes this machine forward packets.
pub fn forward(setting: &str) -> Option<Notice> {
    if setting == FORWARD_IPV6 {
        keep_router_advertisements();
    }
    let error = write_setting(setting, "1").err()?;
    Some(Notice::Setting {
        name: setting.to_owned(),
        value: "1".to_owned(),
        reason: error.to_string(),
        effect: "pods reach neither each other nor anything outside the node",
    })
}

/// A machine that forwards IPv6 ignores what routers advertise, unless a link says otherwise: it would lose its own address.
fn keep_router_advertisements() {
    let Ok(links) = fs::read_dir("/proc/sys/net/ipv6/conf") else { return };
    for link in links.flatten() {
        let path = link.path().join("accept_ra");
        if fs::read_to_string(&path).is_ok_and(|value| value.trim() == "1") {
            fs::write(&path, "2")
                .unwrap_or_else(|error| warn!(path = %path.display(), %error, "An uplink may lose its IPv6 address."));
        }
    }
}
