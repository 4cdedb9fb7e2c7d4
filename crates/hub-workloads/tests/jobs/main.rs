//! Jobs and CronJobs over an embedded API in the test's own process. The test plays the kubelet: it writes the status of pods.

mod cronjobs;
mod hub;
mod jobs;
