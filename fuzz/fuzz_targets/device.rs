//! Profiles and devices as people write them, and events as they travel.
//!
//! Input: a profile and a device as JSON, one a line; or an event.

#![no_main]

use std::sync::{Arc, LazyLock};

use api_edge::edgex::{Device, DeviceProfile, Event};
use edge_core::metadata::{check_device, check_profile};
use edge_device_sdk::Driver;
use libfuzzer_sys::fuzz_target;

static DRIVERS: LazyLock<Vec<Arc<dyn Driver>>> = LazyLock::new(edge_devices::all);

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let (first, second) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if let Ok(event) = serde_json::from_str::<Event>(first) {
        let text = serde_json::to_string(&event).expect("an event is JSON");
        let again: Event = serde_json::from_str(&text).expect("what was written can be read");
        assert_eq!(event, again);
    }
    let Ok(profile) = serde_json::from_str::<DeviceProfile>(first) else { return };
    let is_sound = check_profile(&profile).is_empty();
    let Ok(device) = serde_json::from_str::<Device>(second) else { return };
    if is_sound && check_device(&device, &profile).is_empty() {
        for driver in &*DRIVERS {
            let _ = driver.validate(&device, &profile);
        }
    }
});
