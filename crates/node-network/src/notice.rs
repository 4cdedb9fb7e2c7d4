//! What an operator should know although the network works.

use crate::Subnet;

/// Something that was not as desired or expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Notice {
    /// Pods get addresses of another subnet.
    #[error("pods get addresses of {chosen} instead of {desired}, because {link} uses {addresses}")]
    SubnetMoved {
        /// The configured one.
        desired: Subnet,
        /// The one in use.
        chosen: Subnet,
        /// The uplink in the way.
        link: String,
        /// Its addresses.
        addresses: Subnet,
    },
    /// Pods get addresses that an uplink uses as well, since all others are in use, too.
    #[error(
        "pods get addresses of {desired}, although {link} uses {addresses}: what is there cannot be reached; set another subnet"
    )]
    SubnetCollides {
        /// The configured one.
        desired: Subnet,
        /// The uplink in the way.
        link: String,
        /// Its addresses.
        addresses: Subnet,
    },
    /// A setting of the kernel could not be changed.
    #[error("failed to set {name} to {value}: {reason}; {effect}")]
    Setting {
        /// As `sysctl` calls it.
        name: String,
        /// The value that it should have.
        value: String,
        /// Why not.
        reason: String,
        /// What does not work for it.
        effect: &'static str,
    },
    /// Pods have IPv4 only, although they should have IPv6 as well.
    #[error("pods get no IPv6 addresses: {reason}")]
    NoIpv6 {
        /// What the kernel said.
        reason: String,
    },
    /// A firewall of the machine drops what pods send out.
    #[error(
        "chain {chain} of nftables drops forwarded packets that it does not know: allow iifname \"svp*\" and oifname \"svp*\" there, or pods reach nothing outside their node"
    )]
    ForwardDropped {
        /// Family, table, name.
        chain: String,
    },
}
