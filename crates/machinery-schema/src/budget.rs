//! How much work one request may cause: a count of values looked at, copied or compared.
//!
//! A wall clock would give different answers on a slow gateway and on a fast server, and a test could not hold it. A count
//! of steps gives the same answer everywhere: what is rejected once is rejected always.

/// Steps that one request may take in all. A step is one JSON value visited or copied, some 20 to 50 ns on a small box;
/// the whole budget is then less than a second. An honest request of the largest size (3 MiB) takes about a tenth.
const REQUEST_STEPS_MAX: u64 = 16_000_000;

/// Bytes of memory that one request may add to its object by copying what somebody else has written: defaults, which a
/// client has copied for each item of a list. A body itself decodes into a few times as much at most.
const REQUEST_COPIED_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// What is left of the work that one request may cause. Hand the same one to each function that the request runs through.
///
/// ```
/// use machinery_schema::Budget;
/// let mut budget = Budget::new(10);
/// assert!(budget.spend(7).is_ok());
/// assert!(budget.spend(7).is_err(), "seven are spent, three are left");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    steps_max: u64,
    spent: u64,
    copied_bytes: u64,
}

/// The request would take more than its [`Budget`] has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BudgetExceeded {
    /// More work.
    #[error("the request takes more than {steps_max} steps of work")]
    Steps {
        /// What the budget was at its beginning.
        steps_max: u64,
    },
    /// More memory for copies.
    #[error("the request has more than {bytes_max} bytes copied into its object")]
    Bytes {
        /// What the budget was at its beginning.
        bytes_max: u64,
    },
}

impl Budget {
    /// A budget of so many steps.
    pub fn new(steps_max: u64) -> Self {
        Self { steps_max, spent: 0, copied_bytes: 0 }
    }

    /// The budget of one request over the network.
    pub fn of_request() -> Self {
        Self::new(REQUEST_STEPS_MAX)
    }

    /// Takes steps before they are done.
    ///
    /// # Errors
    /// When fewer are left. The budget stays spent, so that all that follows is rejected too.
    pub fn spend(&mut self, steps: u64) -> Result<(), BudgetExceeded> {
        self.spent = self.spent.saturating_add(steps);
        if self.spent > self.steps_max { Err(BudgetExceeded::Steps { steps_max: self.steps_max }) } else { Ok(()) }
    }

    /// The same for a count of items.
    ///
    /// # Errors
    /// As [`Self::spend`].
    pub fn spend_items(&mut self, items: usize) -> Result<(), BudgetExceeded> {
        self.spend(u64::try_from(items).unwrap_or(u64::MAX))
    }

    /// Takes bytes of memory before they are copied.
    ///
    /// # Errors
    /// When fewer are left, now and for all that follows.
    pub fn spend_bytes(&mut self, bytes: u64) -> Result<(), BudgetExceeded> {
        self.copied_bytes = self.copied_bytes.saturating_add(bytes);
        if self.copied_bytes > REQUEST_COPIED_BYTES_MAX {
            return Err(BudgetExceeded::Bytes { bytes_max: REQUEST_COPIED_BYTES_MAX });
        }
        Ok(())
    }

    /// How many steps have been taken.
    pub fn spent(&self) -> u64 {
        self.spent
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self::of_request()
    }
}
