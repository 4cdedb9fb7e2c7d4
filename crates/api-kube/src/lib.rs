//! The vocabulary of Kubernetes that every plane shares: names, quantities, selectors, times, conditions, statuses.
