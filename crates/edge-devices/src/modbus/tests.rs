use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use api_edge::edgex::{Device, DeviceProfile, DeviceResource, Value, ValueType};
use edge_device_sdk::{DeviceSession, Driver};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tokio::net::TcpListener;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::{Server, accept_tcp_connection};
use tokio_modbus::{ExceptionCode, Request, Response, SlaveRequest};

use super::config::{ConfigError, READ_REGISTERS_MAX};
use super::requests::plan;
use super::*;

/// A device in memory: 40 registers, of which 30 and beyond do not exist; every request is remembered.
#[derive(Default)]
struct Memory {
    registers: Mutex<BTreeMap<u16, u16>>,
    coils: Mutex<BTreeMap<u16, bool>>,
    requests: Mutex<Vec<String>>,
}

const REGISTERS: u16 = 30;

struct Unit(Arc<Memory>);

impl Service for Unit {
    type Request = SlaveRequest<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = std::future::Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        std::future::ready(self.0.answer(&request.request))
    }
}

impl Memory {
    fn answer(&self, request: &Request<'_>) -> Result<Response, ExceptionCode> {
        let mut registers = self.registers.lock().unwrap();
        let mut coils = self.coils.lock().unwrap();
        let log = |text: String| self.requests.lock().unwrap().push(text);
        let read = |registers: &BTreeMap<u16, u16>, address: u16, count: u16| {
            if address + count > REGISTERS {
                return Err(ExceptionCode::IllegalDataAddress);
            }
            Ok((address..address + count)
                .map(|address| registers.get(&address).copied().unwrap_or(0))
                .collect::<Vec<_>>())
        };
        match request {
            Request::ReadHoldingRegisters(address, count) => {
                log(format!("holding {address}+{count}"));
                read(&registers, *address, *count).map(Response::ReadHoldingRegisters)
            }
            Request::ReadInputRegisters(address, count) => {
                log(format!("input {address}+{count}"));
                read(&registers, *address, *count).map(Response::ReadInputRegisters)
            }
            Request::ReadCoils(address, count) => {
                log(format!("coils {address}+{count}"));
                let bit = |address: u16| coils.get(&address).copied().unwrap_or(false);
                Ok(Response::ReadCoils((*address..address + count).map(bit).collect()))
            }
            Request::WriteSingleCoil(address, bit) => {
                log(format!("coil {address}={bit}"));
                coils.insert(*address, *bit);
                Ok(Response::WriteSingleCoil(*address, *bit))
            }
            Request::WriteSingleRegister(address, value) => {
                log(format!("register {address}={value}"));
                registers.insert(*address, *value);
                Ok(Response::WriteSingleRegister(*address, *value))
            }
            Request::WriteMultipleRegisters(address, values) => {
                log(format!("registers {address}={values:?}"));
                registers.extend(values.iter().enumerate().map(|(index, value)| (address + index as u16, *value)));
                Ok(Response::WriteMultipleRegisters(*address, values.len() as u16))
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }
}

async fn serve(memory: Arc<Memory>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let on_connected = move |stream, address| {
            let memory = memory.clone();
            async move { accept_tcp_connection(stream, address, move |_| Ok(Some(Unit(memory.clone())))) }
        };
        Server::new(listener).serve(&on_connected, |_| ()).await
    });
    address
}

fn device(address: SocketAddr) -> Device {
    serde_json::from_value(json!({
        "name": "d", "serviceName": "modbus", "profileName": "p",
        "protocols": {"modbus-tcp": {"Address": address.ip().to_string(), "Port": address.port().to_string(), "UnitID": 1}},
    }))
    .unwrap()
}

async fn session(memory: &Arc<Memory>) -> Box<dyn DeviceSession> {
    let address = serve(memory.clone()).await;
    ModbusDriver::new().open(&device(address), &DeviceProfile::default()).await.unwrap()
}

fn resource(name: &str, value_type: &str, access: &str, attributes: Json) -> DeviceResource {
    serde_json::from_value(json!({
        "name": name, "attributes": attributes, "properties": {"valueType": value_type, "readWrite": access},
    }))
    .unwrap()
}

fn holding(value_type: &str, address: Json) -> DeviceResource {
    resource("r", value_type, "RW", json!({"primaryTable": "HOLDING_REGISTERS", "startingAddress": address}))
}

#[tokio::test]
async fn resources_of_a_command_come_with_one_request_per_table() {
    let memory = Arc::new(Memory::default());
    memory.registers.lock().unwrap().extend([(1, 7), (2, 0), (3, 9), (5, 0xffd3), (10, 1 << 10)]);
    memory.coils.lock().unwrap().extend([(14, true)]);
    let mut session = session(&memory).await;
    let bit = |address| resource("b", "Bool", "RW", json!({"primaryTable": "COILS", "startingAddress": address}));
    let resources = [
        holding("Int16", json!(1)),
        holding("Int32", json!(2)),
        holding("Int16", json!(5)),
        holding("Bool", json!("10.10")),
        bit(0),
        bit(14),
    ];
    let values = session.read(&resources.iter().collect::<Vec<_>>()).await.unwrap();
    let values: Vec<Value> = values.into_iter().map(Result::unwrap).collect();
    let expected =
        [Value::Int(7), Value::Int(9), Value::Int(-45), Value::Bool(true), Value::Bool(false), Value::Bool(true)];
    assert_eq!(values, expected);
    assert_eq!(*memory.requests.lock().unwrap(), ["coils 0+15", "holding 1+10"]);
}

#[tokio::test]
async fn an_address_that_the_device_refuses_harms_no_other() {
    let memory = Arc::new(Memory::default());
    memory.registers.lock().unwrap().insert(29, 5);
    let mut session = session(&memory).await;
    let resources = [holding("Uint16", json!(29)), holding("Uint16", json!(30))];
    let values = session.read(&resources.iter().collect::<Vec<_>>()).await.unwrap();
    assert_eq!(values[0], Ok(Value::Uint(5)));
    let problem = &values[1].as_ref().unwrap_err().problem;
    assert!(problem.starts_with("the device refuses HOLDING_REGISTERS 30: Modbus exception 2"), "{problem}");
}

#[tokio::test]
async fn what_was_written_is_read_back() {
    let memory = Arc::new(Memory::default());
    let mut session = session(&memory).await;
    let text = json!({"primaryTable": "HOLDING_REGISTERS", "startingAddress": 15, "stringRegisterSize": 5});
    let raw = json!({"primaryTable": "HOLDING_REGISTERS", "startingAddress": 5, "rawType": "Int16"});
    let coil = json!({"primaryTable": "COILS", "startingAddress": 3});
    for (resource, value, raw_value) in [
        (resource("r", "String", "RW", text), Value::String("Größe".into()), Value::String("Größe".into())),
        // The inverse of the scale 0.1 gives 214.99999999999997 for some temperatures.
        (resource("r", "Float32", "RW", raw), Value::Float(214.999_999), Value::Int(215)),
        (resource("r", "Bool", "RW", coil), Value::Bool(true), Value::Bool(true)),
        (holding("Float64", json!(20)), Value::Float(-0.5), Value::Float(-0.5)),
        (holding("Bool", json!("9.3")), Value::Bool(true), Value::Bool(true)),
    ] {
        session.write(&[(&resource, value)]).await.unwrap();
        assert_eq!(session.read(&[&resource]).await.unwrap().remove(0), Ok(raw_value));
    }
    assert!(memory.requests.lock().unwrap().contains(&"register 9=8".to_owned()));
    let error = session.write(&[(&holding("Int16", json!(5)), Value::Int(40_000))]).await.unwrap_err();
    assert_eq!(error.to_string(), "resource `r`: 40000 does not fit the device's Int16");
}

#[tokio::test]
async fn a_device_that_is_not_there_is_named_with_the_next_step() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let opened = ModbusDriver::new().open(&device(address), &DeviceProfile::default()).await;
    let error = opened.err().expect("nobody listens there").to_string();
    assert!(error.starts_with(&format!("cannot reach {address} unit 1: ")), "{error}");
    assert!(error.contains("Connection refused") && error.contains("protocols.modbus-tcp"), "{error}");
}

fn check_point(value_type: &str, attributes: Json, expected: Result<(u16, u16), (&str, &str)>) {
    let point = Point::parse(&resource("r", value_type, "R", attributes));
    match (point, expected) {
        (Ok(point), Ok(expected)) => assert_eq!((point.address, point.count), expected),
        (Err(ConfigError { place, problem }), Err((wanted_place, wanted_problem))) => {
            assert_eq!(place, wanted_place);
            assert!(problem.contains(wanted_problem), "{problem}");
        }
        (point, expected) => panic!("{point:?} instead of {expected:?}"),
    }
}

#[test]
fn attributes_are_read_as_edgex_writes_them() {
    let at = |address: Json| json!({"primaryTable": "INPUT_REGISTERS", "startingAddress": address});
    check_point("Int16", at(json!(3)), Ok((3, 1)));
    check_point("Float32", at(json!("0x10")), Ok((16, 2)));
    check_point("Uint64", at(json!("7")), Ok((7, 4)));
    check_point(
        "Float64",
        json!({"primaryTable": "input_registers", "startingAddress": 3, "rawType": "INT16"}),
        Ok((3, 1)),
    );
    check_point("Bool", json!({"primaryTable": "COILS", "startingAddress": 65535}), Ok((65535, 1)));
    let address = "attributes.startingAddress";
    check_point("Int16", at(json!(70_000)), Err((address, "`70000` is not an address")));
    check_point("Int16", at(json!("3.4")), Err((address, "for Bool resources in registers only")));
    check_point("Bool", at(json!("3.16")), Err((address, "`3.16` is not an address")));
    check_point("Uint32", at(json!(65535)), Err((address, "reach beyond 65535")));
    check_point("Int16", json!({"primaryTable": "INPUT_REGISTERS"}), Err((address, "is missing")));
    check_point("Int16", json!({"startingAddress": 3}), Err(("attributes.primaryTable", "is missing")));
    check_point(
        "Int16",
        json!({"primaryTable": "INPUTS", "startingAddress": 3}),
        Err(("attributes.primaryTable", "\"INPUTS\" is unknown")),
    );
    check_point(
        "Int16",
        json!({"primaryTable": "COILS", "startingAddress": 3}),
        Err(("properties.valueType", "use Bool")),
    );
    check_point("Binary", at(json!(1)), Err(("properties.valueType", "Binary cannot be read")));
    check_point("String", at(json!(1)), Err(("attributes.stringRegisterSize", "is missing")));
    let raw = json!({"primaryTable": "INPUT_REGISTERS", "startingAddress": 3, "rawType": "Int12"});
    check_point("Float32", raw, Err(("attributes.rawType", "\"Int12\" is unknown")));
    let swap = json!({"primaryTable": "INPUT_REGISTERS", "startingAddress": 3, "isByteSwap": "perhaps"});
    check_point("Float32", swap, Err(("attributes.isByteSwap", "neither true nor false")));
    let unknown = json!({"primaryTable": "INPUT_REGISTERS", "startingAdress": 3});
    check_point("Float32", unknown, Err(("attributes.startingAdress", "is unknown")));
}

fn check_endpoint(protocols: Json, expected: &str) {
    let device: Device = serde_json::from_value(json!({"name": "d", "protocols": protocols})).unwrap();
    let text = match ModbusDriver::new().validate(&device, &DeviceProfile::default()) {
        Ok(()) => Endpoint::parse(&device).unwrap().to_string(),
        Err(error) => error.to_string(),
    };
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn a_device_says_where_it_is() {
    let tcp = |properties: Json| json!({"modbus-tcp": properties});
    check_endpoint(tcp(json!({"Address": "plc.local", "Port": 1502, "UnitID": "7"})), "plc.local:1502 unit 7");
    check_endpoint(tcp(json!({"Address": "192.0.2.1"})), "192.0.2.1:502 unit 1");
    check_endpoint(tcp(json!({"Port": 502})), "device `d`, protocols.modbus-tcp.Address: is missing");
    check_endpoint(
        tcp(json!({"Address": "a", "Port": 0})),
        "device `d`, protocols.modbus-tcp.Port: 0 is not a whole number",
    );
    check_endpoint(tcp(json!({"Address": "a", "Prt": 1})), "device `d`, protocols.modbus-tcp.Prt: is unknown");
    check_endpoint(json!({"modbus-rtu": {"Address": "/dev/ttyS0"}}), "device `d`, protocols.modbus-rtu: serial lines");
    check_endpoint(json!({}), "device `d`, protocols.modbus-tcp: is missing");
}

/// What the driver makes of a whole profile: `name table address+registers` of each resource.
fn check_profile(text: &str, expected: &[&str]) {
    let profile: DeviceProfile = serde_saphyr::from_str(text).unwrap();
    ModbusDriver::new().validate(&device("127.0.0.1:502".parse().unwrap()), &profile).unwrap();
    let points = profile.device_resources.iter().map(|resource| {
        let point = Point::parse(resource).unwrap();
        let bit = point.bit.map(|bit| format!(".{bit}")).unwrap_or_default();
        format!("{} {} {}{bit}+{}", resource.name, point.table.name(), point.address, point.count)
    });
    assert_eq!(points.collect::<Vec<_>>(), expected);
}

#[test]
fn profiles_are_accepted_in_the_forms_in_which_they_are_published() {
    check_profile(
        include_str!("../../../../tests/data/edgex/air-handler.yaml"),
        &[
            "SupplyDamper COILS 2+1",
            "DoorContact DISCRETES_INPUT 7+1",
            "FilterAlarm HOLDING_REGISTERS 20.11+1",
            "FanSpeed HOLDING_REGISTERS 4+2",
            "SupplyTemperature INPUT_REGISTERS 8+1",
            "AirFlow HOLDING_REGISTERS 12+2",
        ],
    );
    check_profile(
        include_str!("../../../../tests/data/edgex/nameplate.yaml"),
        &["Serial INPUT_REGISTERS 100+8", "Place HOLDING_REGISTERS 40+16"],
    );
}

fn any_point() -> impl Strategy<Value = Point> {
    let types = prop_oneof![
        Just((ValueType::Int16, 1u16)),
        Just((ValueType::Uint16, 1)),
        Just((ValueType::Int32, 2)),
        Just((ValueType::Uint32, 2)),
        Just((ValueType::Int64, 4)),
        Just((ValueType::Uint64, 4)),
        Just((ValueType::Float32, 2)),
        Just((ValueType::Float64, 4)),
    ];
    (types, 0..400u16, any::<bool>(), any::<bool>()).prop_map(
        |((raw_type, count), address, swaps_bytes, swaps_words)| Point {
            table: Table::HoldingRegisters,
            address,
            count,
            bit: None,
            raw_type,
            swaps_bytes,
            swaps_words,
        },
    )
}

proptest! {
    #[test]
    fn registers_survive_decoding_and_encoding(point in any_point(), registers in proptest::collection::vec(any::<u16>(), 4)) {
        let value = codec::decode(&point, &registers).unwrap();
        let is_number = value.as_f64().is_some_and(f64::is_finite);
        if is_number {
            prop_assert_eq!(codec::encode(&point, &value).unwrap(), &registers[..usize::from(point.count)]);
        }
    }

    #[test]
    fn a_plan_covers_every_point_once_within_the_limits(
        points in proptest::collection::vec(any_point(), 0..40),
        bridges_holes in any::<bool>(),
    ) {
        let points: Vec<(usize, Point)> = points.into_iter().enumerate().collect();
        let requests = plan(&points, bridges_holes);
        let mut covered: Vec<usize> = requests.iter().flat_map(|request| request.points.clone()).collect();
        covered.sort_unstable();
        prop_assert_eq!(covered, (0..points.len()).collect::<Vec<_>>());
        for request in &requests {
            prop_assert!(request.count <= READ_REGISTERS_MAX);
            for index in &request.points {
                let point = &points[*index].1;
                prop_assert!(point.address >= request.address);
                prop_assert!(point.address + point.count <= request.address + request.count);
            }
        }
    }
}
