//! What a driver is: one type per protocol, one session per device.

use std::future::Future;
use std::pin::Pin;

use api_edge::edgex::{Device, DeviceProfile, DeviceResource, Value};

/// A future in a box, so that drivers can be used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Speaks one protocol.
pub trait Driver: Send + Sync {
    /// The `serviceName` that devices use to choose this driver.
    fn name(&self) -> &'static str;

    /// Checks all that can be known without the device: protocol properties, attributes, types.
    ///
    /// # Errors
    /// [`DriverError::Device`] or [`DriverError::Profile`], naming the place. Nothing is sent.
    fn validate(&self, device: &Device, profile: &DeviceProfile) -> Result<(), DriverError>;

    /// Connects to the device. The manager bounds the time this may take.
    ///
    /// # Errors
    /// [`DriverError::Unreachable`] when the device does not answer; the manager tries again later.
    fn open<'a>(
        &'a self,
        device: &'a Device,
        profile: &'a DeviceProfile,
    ) -> BoxFuture<'a, Result<Box<dyn DeviceSession>, DriverError>>;
}

/// A device that is connected. Its calls never overlap.
pub trait DeviceSession: Send {
    /// Reads raw values, before any transformation; one result per resource, in their order.
    ///
    /// A resource that cannot be had by itself (a sensor that is missing, an address the device refuses) is an error in
    /// its place and harms no other.
    ///
    /// # Errors
    /// [`SessionError`] when the connection is of no more use; the manager drops the session.
    fn read<'a>(
        &'a mut self,
        resources: &'a [&'a DeviceResource],
    ) -> BoxFuture<'a, Result<Vec<Result<Value, ResourceError>>, SessionError>>;

    /// Writes raw values, after the inverse transformation, in their order; stops at the first that is refused.
    ///
    /// # Errors
    /// [`WriteFailure::Resource`] when the device refuses a value, [`WriteFailure::Session`] when the connection broke.
    fn write<'a>(&'a mut self, values: &'a [(&'a DeviceResource, Value)]) -> BoxFuture<'a, Result<(), WriteFailure>>;
}

/// Why a driver cannot work with a device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The device's own description is wrong.
    #[error("device `{device}`, {place}: {problem}")]
    Device {
        /// The device.
        device: String,
        /// Where, such as `protocols.modbus-tcp.Port`.
        place: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The profile does not suit the driver.
    #[error("profile `{profile}`, resource `{resource}`, {place}: {problem}")]
    Profile {
        /// The profile.
        profile: String,
        /// The resource.
        resource: String,
        /// Where, such as `attributes.startingAddress`.
        place: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The device does not answer.
    #[error("cannot reach {address}: {problem}; {next_step}")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// What happened.
        problem: String,
        /// What a person may check.
        next_step: String,
    },
}

/// One resource could not be read or written; the device is fine otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("resource `{resource}`: {problem}")]
pub struct ResourceError {
    /// The resource.
    pub resource: String,
    /// What happened.
    pub problem: String,
}

impl ResourceError {
    /// An error at `resource`.
    pub fn new(resource: &str, problem: impl Into<String>) -> Self {
        Self { resource: resource.to_owned(), problem: problem.into() }
    }
}

/// The connection to a device is of no more use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lost {address}: {problem}")]
pub struct SessionError {
    /// Where the device is.
    pub address: String,
    /// What happened.
    pub problem: String,
}

/// Why values were not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteFailure {
    /// The device refused one value; those before it were written.
    #[error(transparent)]
    Resource(#[from] ResourceError),
    /// The connection broke.
    #[error(transparent)]
    Session(#[from] SessionError),
}
