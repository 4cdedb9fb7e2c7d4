//! What kernel objects of ours are called, in one place, so that no two kinds collide.
//!
//! | object | name | because |
//! | --- | --- | --- |
//! | host end of a pod's link | `svp` + 12 hex digits of a hash of the pod's uid | found again after a restart; 15 letters are all there are |
//! | alias of that link | `selvedge pod UID` | who looks at `ip link` sees the pod, and a collision of hashes is noticed |
//! | the pod's own end | `eth0` | programs expect it |
//! | nftables | tables `ip selvedge`, `ip6 selvedge` | everything in them is ours |
//! | chain of a service's port | `svc-` hash `-NAMESPACE/NAME/PROTOCOL/PORT` | read by people, unique by the hash |

/// The table of nftables in which everything of ours is.
pub const TABLE: &str = "selvedge";
/// The link in a pod.
pub const POD_LINK: &str = "eth0";
/// What names of pods' links on the host begin with.
pub const HOST_LINK_PREFIX: &str = "svp";
/// What names of chains of services begin with.
pub const SERVICE_CHAIN_PREFIX: &str = "svc-";
const ALIAS_PREFIX: &str = "selvedge pod ";
/// The kernel's limit of an alias is 255.
const UID_BYTES_MAX: usize = 128;
/// nftables takes 255; a listing stays readable.
const CHAIN_BYTES_MAX: usize = 120;

/// A hash that no version of ours changes: names of kernel objects outlive the program.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    stable_hash_from(0xcbf2_9ce4_8422_2325, bytes)
}

/// [`stable_hash`] of more bytes, given that of what is before them.
pub fn stable_hash_from(state: u64, bytes: &[u8]) -> u64 {
    // FNV-1a; its weak upper bits are mixed where bits are taken from it.
    bytes.iter().fold(state, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Spreads a hash over all bits (the finaliser of MurmurHash3).
pub fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

/// The host end of a pod's link.
pub fn host_link(uid: &str) -> String {
    format!("{HOST_LINK_PREFIX}{:012x}", mixed(stable_hash(uid.as_bytes())) >> 16)
}

/// The alias of a pod's link.
pub fn alias(uid: &str) -> String {
    let end = uid.floor_char_boundary(UID_BYTES_MAX);
    format!("{ALIAS_PREFIX}{}", &uid[..end])
}

/// The pod that an alias names.
pub fn uid_of(alias: &str) -> Option<&str> {
    alias.strip_prefix(ALIAS_PREFIX)
}

/// The chain of a port of a service.
pub fn service_chain(namespace: &str, name: &str, protocol: &str, port: u16) -> String {
    let full = format!("{namespace}/{name}/{protocol}/{port}");
    let hash = mixed(stable_hash(full.as_bytes())) >> 32;
    let letters = full.chars().map(|letter| match letter {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '-' | '/' => letter,
        _ => '_',
    });
    format!("{SERVICE_CHAIN_PREFIX}{hash:08x}-{}", letters.take(CHAIN_BYTES_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_link_never_changes_and_fits() {
        let name = host_link("0d9b5f7e-7a4e-4b0e-9a55-6d7ce6a3f2c1");
        assert_eq!((name.as_str(), name.len()), ("svpe8bd0b350949", 15));
        assert_ne!(name, host_link("0d9b5f7e-7a4e-4b0e-9a55-6d7ce6a3f2c2"));
    }

    #[test]
    fn an_alias_names_the_pod() {
        assert_eq!(uid_of(&alias("a-b")), Some("a-b"));
        assert_eq!(uid_of("somebody else's"), None);
        assert!(alias(&"ä".repeat(400)).len() < 256);
    }

    #[test]
    fn a_chain_is_named_after_its_service_in_letters_that_nft_takes() {
        let name = service_chain("default", "web", "tcp", 80);
        assert!(name.starts_with("svc-") && name.ends_with("-default/web/tcp/80"), "{name}");
        assert!(service_chain("a b", "\"x\n", "udp", 1).ends_with("-a_b/_x_/udp/1"));
        assert!(service_chain(&"n".repeat(500), "x", "udp", 1).len() < 255);
    }
}
