//! Who may do what on a hub, and what it lets in: the policy of ours, apart from the API machinery.
