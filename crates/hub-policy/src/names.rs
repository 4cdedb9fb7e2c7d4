//! Which names a node may not have.
//!
//! A node's name becomes the name of other things: of its certificates, where clients would take it for the hub, and of
//! the parts of its assignment, where another node's part could bear it.

use api_edge::resources::ASSIGNMENT_PART_SEPARATOR as PART_SEPARATOR;

/// Names under which clients in a cluster know the API server.
const OF_THE_API: [&str; 5] =
    ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"];

/// Why no node may have this name; `None` when one may. `hub_names` are the names by which this hub is reached.
pub fn rejection(node: &str, hub_names: &[String]) -> Option<String> {
    let is_hub = |name: &str| name.eq_ignore_ascii_case(node);
    if OF_THE_API.iter().any(|name| is_hub(name)) || hub_names.iter().any(|name| is_hub(name)) {
        return Some(format!("{node:?} is a name of the hub; choose another with --node-name"));
    }
    if node.rsplit_once(PART_SEPARATOR).is_some_and(|(_, number)| is_number(number)) {
        return Some(format!(
            "{node:?} ends like a further part of another node's assignment ({PART_SEPARATOR}NUMBER); choose another name with --node-name"
        ));
    }
    api_edge::identity::bad_node_name(node)
}

/// Whether an assignment of this name can be of no other node: it is named as the node, or as a further part of its assignment.
pub fn is_assignment_of(name: &str, node: &str) -> bool {
    match name.strip_prefix(node) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(PART_SEPARATOR).is_some_and(is_number),
        None => false,
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
