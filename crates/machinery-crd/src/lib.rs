//! CustomResourceDefinitions: what their schemas mean.

mod structural;

use machinery_schema::{Budget, BudgetExceeded, DEPTH_MAX, FieldError, bounded, builtin, field_error};
pub use structural::Structural;
