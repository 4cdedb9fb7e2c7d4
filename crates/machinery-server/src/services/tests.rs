//! Who has which number.

use machinery_kinds::Registry;
use serde_json::{Value, json};

use super::{Reservation, ServiceBooks, ServiceRange, service_numbers};

fn books(range: ServiceRange) -> ServiceBooks {
    let store = machinery_store::Store::in_memory(machinery_store::StoreOptions::default()).expect("memory");
    ServiceBooks::open(range, &store)
}

fn info() -> std::sync::Arc<machinery_kinds::ResourceInfo> {
    Registry::builtin().resource("", "v1", "services").expect("services are served").clone()
}

fn service(spec: Value) -> Value {
    let mut service = json!({"metadata": {"name": "a", "namespace": "n"}, "spec": spec});
    info().apply_defaults(&mut service).expect("small");
    service
}

fn message(books: &ServiceBooks, spec: Value) -> String {
    let result = books.begin_create(&info(), &mut service(spec));
    result.map(|_| String::new()).unwrap_or_else(|error| error.message().to_owned())
}

/// Stores a Service, as it were.
fn create(books: &ServiceBooks, spec: Value) -> Value {
    let mut service = service(spec);
    let reservation: Reservation<'_> = books.begin_create(&info(), &mut service).expect("allowed");
    reservation.confirm(&Default::default(), &service_numbers(&service));
    service
}

#[test]
fn a_service_gets_an_address_and_its_ports_get_numbers() {
    let books = books(ServiceRange::default());
    let ports =
        json!([{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}, {"name": "c", "port": 80}]);
    let service = create(&books, json!({"type": "NodePort", "ports": ports}));
    let spec = &service["spec"];
    assert_eq!(spec["ipFamilies"], json!(["IPv4"]));
    assert_eq!(spec["ipFamilyPolicy"], "SingleStack");
    assert_eq!(spec["clusterIPs"], json!([spec["clusterIP"]]));
    assert!(spec["clusterIP"].as_str().is_some_and(|ip| ip.starts_with("10.96.")), "{spec}");
    assert_eq!(spec["ports"][0]["nodePort"], spec["ports"][1]["nodePort"], "two protocols of a port share a number");
    assert_ne!(spec["ports"][0]["nodePort"], spec["ports"][2]["nodePort"]);
}

#[test]
fn what_another_service_has_or_nobody_can_have_is_not_given() {
    let books = books(ServiceRange::default());
    let with = |ip: &str| json!({"clusterIP": ip, "ports": [{"port": 80}]});
    create(&books, with("10.96.0.9"));
    let line = |ip: &str, why: &str| {
        format!(
            "Service \"a\" is invalid: spec.clusterIPs: Invalid value: [\"{ip}\"]: failed to allocate IP {ip}: {why}"
        )
    };
    assert_eq!(message(&books, with("10.96.0.9")), line("10.96.0.9", "provided IP is already allocated"));
    let other = "the provided network does not match the current range";
    assert_eq!(message(&books, with("192.0.2.9")), line("192.0.2.9", other));
    let network = "the provided IP (10.96.0.0) is not in the valid range. The range of valid IPs is 10.96.0.0/16";
    assert_eq!(message(&books, with("10.96.0.0")), line("10.96.0.0", network));
    let port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]});
    assert_eq!(
        message(&books, port),
        "Service \"a\" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
    );
}

#[test]
fn what_is_not_stored_or_deleted_is_free_again() {
    let books = books(ServiceRange::default());
    let spec = json!({"clusterIP": "10.96.0.9", "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    drop(books.begin_create(&info(), &mut service(spec.clone())).expect("allowed"));
    let stored = create(&books, spec.clone());
    assert!(!message(&books, spec.clone()).is_empty());
    books.release(&stored);
    assert_eq!(message(&books, spec), "");
}

#[test]
fn a_new_version_keeps_its_numbers_and_gives_back_what_it_needs_no_more() {
    let books = books(ServiceRange::default());
    let old = create(&books, json!({"type": "NodePort", "ports": [{"port": 80}]}));
    let mut new = service(json!({"type": "NodePort", "ports": [{"port": 81}]}));
    let reservation = books.begin_update(&info(), &mut new, &old).expect("allowed");
    assert_eq!(new["spec"]["clusterIP"], old["spec"]["clusterIP"]);
    assert_eq!(new["spec"]["ports"][0]["nodePort"], old["spec"]["ports"][0]["nodePort"], "found by the port's name");
    reservation.confirm(&service_numbers(&old), &service_numbers(&new));
    let mut named = service(json!({"type": "ExternalName", "externalName": "a.example"}));
    let reservation = books.begin_update(&info(), &mut named, &new).expect("allowed");
    reservation.confirm(&service_numbers(&new), &service_numbers(&named));
    let again = json!({"clusterIP": old["spec"]["clusterIP"], "ports": [{"port": 80}]});
    assert_eq!(message(&books, again), "");
}

#[test]
fn a_full_range_says_so() {
    let range = ServiceRange { prefix: 30, ..ServiceRange::default() };
    let books = books(range);
    let spec = || json!({"ports": [{"port": 80}]});
    create(&books, spec());
    create(&books, spec());
    assert_eq!(
        message(&books, spec()),
        "Internal error occurred: failed to allocate a serviceIP for Service \"a\": range is full"
    );
}
