//! Sessions with Modbus TCP devices.

use std::io;
use std::time::Duration;

use api_edge::edgex::{Device, DeviceProfile, DeviceResource, Value};
use edge_device_sdk::{BoxFuture, DeviceSession, Driver, DriverError, ResourceError, SessionError, WriteFailure};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_modbus::ExceptionCode;
use tokio_modbus::client::{Context, Reader as _, Writer as _, tcp};
use tokio_modbus::slave::Slave;

use super::codec;
use super::config::{Endpoint, Point, Table};
use super::requests::{Request, plan};

/// Speaks Modbus TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct ModbusDriver {}

impl ModbusDriver {
    /// The driver; it has no settings.
    pub fn new() -> Self {
        Self {}
    }
}

impl Driver for ModbusDriver {
    fn name(&self) -> &'static str {
        "modbus"
    }

    fn validate(&self, device: &Device, profile: &DeviceProfile) -> Result<(), DriverError> {
        for resource in &profile.device_resources {
            Point::parse(resource).map_err(|error| DriverError::Profile {
                profile: profile.name.clone(),
                resource: resource.name.clone(),
                place: error.place,
                problem: error.problem,
            })?;
        }
        endpoint(device).map(|_| ())
    }

    fn open<'a>(
        &'a self,
        device: &'a Device,
        _: &'a DeviceProfile,
    ) -> BoxFuture<'a, Result<Box<dyn DeviceSession>, DriverError>> {
        Box::pin(async move {
            let endpoint = endpoint(device)?;
            let context = connect(&endpoint).await.map_err(|error| DriverError::Unreachable {
                address: endpoint.to_string(),
                problem: error.to_string(),
                next_step:
                    "check that the device is switched on and that protocols.modbus-tcp names its Address and Port"
                        .to_owned(),
            })?;
            let session = ModbusSession { endpoint, context, used: Instant::now(), bridges_holes: true };
            Ok(Box::new(session) as Box<dyn DeviceSession>)
        })
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{} unit {}", self.address, self.port, self.unit_id)
    }
}

fn endpoint(device: &Device) -> Result<Endpoint, DriverError> {
    Endpoint::parse(device).map_err(|error| DriverError::Device {
        device: device.name.clone(),
        place: error.place,
        problem: error.problem,
    })
}

async fn connect(endpoint: &Endpoint) -> io::Result<Context> {
    let connecting = TcpStream::connect((endpoint.address.as_str(), endpoint.port));
    let stream = within(endpoint.timeout, connecting, "no connection").await?;
    // Requests are small and wait for each other; gathering them would only add delay.
    stream.set_nodelay(true)?;
    Ok(tcp::attach_slave(stream, Slave(endpoint.unit_id)))
}

async fn within<T>(limit: Duration, act: impl Future<Output = io::Result<T>>, what: &str) -> io::Result<T> {
    match tokio::time::timeout(limit, act).await {
        Ok(result) => result,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{what} within {} s", limit.as_secs()))),
    }
}

struct ModbusSession {
    endpoint: Endpoint,
    context: Context,
    used: Instant,
    /// Cleared when the device refused a request that a hole was part of.
    bridges_holes: bool,
}

/// What a table gives: registers, or bits as registers of 0 and 1.
type Registers = Result<Vec<u16>, ExceptionCode>;

impl DeviceSession for ModbusSession {
    fn read<'a>(
        &'a mut self,
        resources: &'a [&'a DeviceResource],
    ) -> BoxFuture<'a, Result<Vec<Result<Value, ResourceError>>, SessionError>> {
        Box::pin(async move {
            self.refresh().await?;
            let mut values: Vec<Result<Value, ResourceError>> = Vec::with_capacity(resources.len());
            let mut points = Vec::with_capacity(resources.len());
            for (index, resource) in resources.iter().enumerate() {
                // Each point's own error is replaced once its answer is there.
                let problem = match Point::parse(resource) {
                    Ok(point) => {
                        points.push((index, point));
                        "the device gave no answer for it".to_owned()
                    }
                    Err(error) => format!("{}: {}", error.place, error.problem),
                };
                values.push(Err(ResourceError::new(&resource.name, problem)));
            }
            self.read_points(&points, resources, &mut values).await?;
            Ok(values)
        })
    }

    fn write<'a>(&'a mut self, values: &'a [(&'a DeviceResource, Value)]) -> BoxFuture<'a, Result<(), WriteFailure>> {
        Box::pin(async move {
            self.refresh().await?;
            for (resource, value) in values {
                let wrong = |problem: String| ResourceError::new(&resource.name, problem);
                let point =
                    Point::parse(resource).map_err(|error| wrong(format!("{}: {}", error.place, error.problem)))?;
                self.write_point(&point, value, &wrong).await?;
            }
            Ok(())
        })
    }
}

impl ModbusSession {
    async fn read_points(
        &mut self,
        points: &[(usize, Point)],
        resources: &[&DeviceResource],
        values: &mut [Result<Value, ResourceError>],
    ) -> Result<(), SessionError> {
        for request in plan(points, self.bridges_holes) {
            match self.request(&request).await? {
                Ok(registers) => take(&request, &registers, points, resources, values),
                // One bad address spoils the whole request: ask for each resource by itself, so that only it fails.
                Err(_) if request.points.len() > 1 => {
                    self.bridges_holes = false;
                    for (index, point) in points.iter().filter(|(index, _)| request.points.contains(index)) {
                        let single = Request {
                            table: point.table,
                            address: point.address,
                            count: point.count,
                            points: vec![*index],
                        };
                        match self.request(&single).await? {
                            Ok(registers) => take(&single, &registers, points, resources, values),
                            Err(exception) => values[*index] = Err(refused(resources[*index], point, exception)),
                        }
                    }
                }
                Err(exception) => {
                    for (index, point) in points.iter().filter(|(index, _)| request.points.contains(index)) {
                        values[*index] = Err(refused(resources[*index], point, exception));
                    }
                }
            }
        }
        Ok(())
    }

    async fn request(&mut self, request: &Request) -> Result<Registers, SessionError> {
        let (address, count) = (request.address, request.count);
        let limit = self.endpoint.timeout;
        let bits = |bits: Result<Vec<bool>, ExceptionCode>| bits.map(|bits| bits.into_iter().map(u16::from).collect());
        let context = &mut self.context;
        let reading = async {
            Ok(match request.table {
                Table::Coils => bits(context.read_coils(address, count).await.map_err(io_error)?),
                Table::DiscreteInputs => bits(context.read_discrete_inputs(address, count).await.map_err(io_error)?),
                Table::InputRegisters => context.read_input_registers(address, count).await.map_err(io_error)?,
                Table::HoldingRegisters => context.read_holding_registers(address, count).await.map_err(io_error)?,
            })
        };
        let answer = within(limit, reading, "no answer").await;
        self.used = Instant::now();
        answer.map_err(|error| self.lost(error))
    }

    async fn write_point(
        &mut self,
        point: &Point,
        value: &Value,
        wrong: &(dyn Fn(String) -> ResourceError + Send + Sync),
    ) -> Result<(), WriteFailure> {
        if point.table.is_bits() {
            let Value::Bool(bit) = value else { return Err(wrong("the value is not true or false".to_owned()).into()) };
            let bit = *bit;
            return self.send_write(point, wrong, WriteAct::Coil(bit)).await;
        }
        let registers = match (point.bit, value) {
            // The other bits of the register stay. A device that changes them in the same moment loses that change.
            (Some(bit), Value::Bool(is_set)) => {
                let whole = Request { table: point.table, address: point.address, count: 1, points: vec![] };
                let register = self.request(&whole).await?.map_err(|exception| wrong(name(exception)))?;
                let register = register.first().copied().unwrap_or(0);
                vec![if *is_set { register | 1 << bit } else { register & !(1 << bit) }]
            }
            _ => codec::encode(point, value).map_err(wrong)?,
        };
        self.send_write(point, wrong, WriteAct::Registers(registers)).await
    }

    async fn send_write(
        &mut self,
        point: &Point,
        wrong: &(dyn Fn(String) -> ResourceError + Send + Sync),
        act: WriteAct,
    ) -> Result<(), WriteFailure> {
        let context = &mut self.context;
        let writing = async {
            match act {
                WriteAct::Coil(bit) => context.write_single_coil(point.address, bit).await,
                // Some devices know only the function for one register, some only that for several; this follows EdgeX.
                WriteAct::Registers(registers) if registers.len() == 1 => {
                    context.write_single_register(point.address, registers[0]).await
                }
                WriteAct::Registers(registers) => context.write_multiple_registers(point.address, &registers).await,
            }
            .map_err(io_error)
        };
        let answer = within(self.endpoint.timeout, writing, "no answer").await;
        self.used = Instant::now();
        let answer = answer.map_err(|error| self.lost(error))?;
        answer.map_err(|exception| {
            wrong(format!("the device refuses to write {}: {}", at(point), name(exception))).into()
        })
    }

    /// Replaces a connection that was idle for too long.
    async fn refresh(&mut self) -> Result<(), SessionError> {
        if self.used.elapsed() > self.endpoint.idle_timeout {
            self.context = connect(&self.endpoint).await.map_err(|error| self.lost(error))?;
            self.used = Instant::now();
        }
        Ok(())
    }

    fn lost(&self, error: io::Error) -> SessionError {
        SessionError { address: self.endpoint.to_string(), problem: error.to_string() }
    }
}

enum WriteAct {
    Coil(bool),
    Registers(Vec<u16>),
}

/// Cuts the values of a request out of its answer.
fn take(
    request: &Request,
    registers: &[u16],
    points: &[(usize, Point)],
    resources: &[&DeviceResource],
    values: &mut [Result<Value, ResourceError>],
) {
    for (index, point) in points.iter().filter(|(index, _)| request.points.contains(index)) {
        let offset = usize::from(point.address - request.address);
        let value = registers.get(offset..).and_then(|registers| codec::decode(point, registers));
        values[*index] = value
            .ok_or_else(|| ResourceError::new(&resources[*index].name, "the device answered with too few registers"));
    }
}

fn refused(resource: &DeviceResource, point: &Point, exception: ExceptionCode) -> ResourceError {
    ResourceError::new(&resource.name, format!("the device refuses {}: {}", at(point), name(exception)))
}

fn at(point: &Point) -> String {
    format!("{} {}", point.table.name(), point.address)
}

/// The exception in the standard's words, with its number.
fn name(exception: ExceptionCode) -> String {
    format!("Modbus exception {}, {exception}", u8::from(exception))
}

fn io_error(error: tokio_modbus::Error) -> io::Error {
    match error {
        tokio_modbus::Error::Transport(error) => error,
        tokio_modbus::Error::Protocol(error) => io::Error::new(io::ErrorKind::InvalidData, error.to_string()),
    }
}
