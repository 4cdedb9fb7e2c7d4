//! What an API server answers when it rejects a request (`metav1.Status`), as data. Which request gets which reason is
//! decided by the server alone.

use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// Kubernetes' reasons for programs. A client decides by the reason, never by the message.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
            /// None, or one that this program does not know.
            #[default]
            #[serde(other)]
            #[serde(rename = "")]
            Unknown,
        }

        impl Reason {
            /// Every known reason.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As it is written.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                    Self::Unknown => "",
                }
            }

            /// The HTTP status that goes with it.
            pub fn code(self) -> u16 {
                match self {
                    $(Self::$name => $code,)*
                    Self::Unknown => 500,
                }
            }
        }
    };
}

reasons! {
    /// The request makes no sense.
    BadRequest = 400,
    /// Nobody knows the caller.
    Unauthorized = 401,
    /// The caller may not do this.
    Forbidden = 403,
    /// There is no such object or path.
    NotFound = 404,
    /// The path does not know this method.
    MethodNotAllowed = 405,
    /// No media type that the caller takes.
    NotAcceptable = 406,
    /// An object of this name is there.
    AlreadyExists = 409,
    /// The object has changed since it was read.
    Conflict = 409,
    /// The object is no longer there, and the caller should know why.
    Gone = 410,
    /// The revision asked for is compacted: list again.
    Expired = 410,
    /// The body is too large.
    RequestEntityTooLarge = 413,
    /// The body's media type is not known.
    UnsupportedMediaType = 415,
    /// The object is not valid; the causes name the fields.
    Invalid = 422,
    /// Too much at once: try again later.
    TooManyRequests = 429,
    /// Something failed here that is not the caller's doing.
    InternalError = 500,
    /// The server cannot serve this just now.
    ServiceUnavailable = 503,
    /// It took too long here; it may have happened.
    Timeout = 504,
    /// The server should be asked again after a while; it may have happened.
    ServerTimeout = 500,
    /// The disk is full.
    InsufficientStorage = 507,
    /// The path is known and not served.
    NotImplemented = 501,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    /// `Status`.
    pub kind: String,
    /// `v1`.
    pub api_version: String,
    /// Always an empty object here.
    pub metadata: Empty,
    /// `Failure`, or `Success`.
    pub status: String,
    /// For people.
    pub message: String,
    /// For programs.
    pub reason: Reason,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Details>,
    /// The HTTP status.
    pub code: u16,
}

/// An object without fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// What a [`Status`] is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    /// The object's name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its API group.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    /// Its resource, in the plural.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its uid.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// What is wrong, field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    /// When to try again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cause {
    /// `FieldValueInvalid` and its like.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The field's path.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

impl Status {
    /// A rejection. `details` are there even when nothing is known of the object: clients read them without asking.
    pub fn failure(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind: "Status".to_owned(),
            api_version: "v1".to_owned(),
            metadata: Empty {},
            status: "Failure".to_owned(),
            message: message.into(),
            reason,
            details: Some(Details::default()),
            code: reason.code(),
        }
    }

    /// Whether trying again later may help.
    pub fn may_be_retried(&self) -> bool {
        matches!(
            self.reason,
            Reason::TooManyRequests | Reason::ServiceUnavailable | Reason::Timeout | Reason::ServerTimeout
        )
    }
}
