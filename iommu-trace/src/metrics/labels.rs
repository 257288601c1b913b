//! Devices as labels: so many and no more, whatever the machine does.

use std::collections::HashMap;

use crate::event::Name;

/// How many devices have series of their own. What comes later is counted together, as device `other` of group `other`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimit(pub usize);

impl Default for DeviceLimit {
    fn default() -> Self {
        DeviceLimit(128)
    }
}

/// The label of what found no room of its own.
pub const OTHER: &str = "other";

/// What a device is known by.
pub type DeviceKey = (Option<u32>, Name);

/// One value of `T` for each device that has room, and one for the others.
#[derive(Clone, Debug)]
pub struct ByDevice<T> {
    limit: usize,
    places: HashMap<DeviceKey, usize, foldhash::fast::RandomState>,
    /// The first is that of the others.
    values: Vec<(Option<DeviceKey>, T)>,
}

impl<T: Default> ByDevice<T> {
    pub fn new(limit: DeviceLimit) -> Self {
        ByDevice { limit: limit.0, places: HashMap::default(), values: vec![(None, T::default())] }
    }

    /// The device's own value, or that of the others.
    pub fn get(&mut self, group: Option<u32>, device: Name) -> &mut T {
        let key = (group, device);
        let place = match self.places.get(&key) {
            Some(&place) => place,
            None if self.places.len() < self.limit => {
                let place = self.values.len();
                self.values.push((Some(key), T::default()));
                self.places.insert(key, place);
                place
            }
            None => 0,
        };
        &mut self.values[place].1
    }

    /// Changes every value.
    pub fn each(&mut self, change: impl FnMut(&mut T)) {
        self.values.iter_mut().map(|(_, value)| value).for_each(change);
    }

    /// Every value with its group and device as labels; that of the others once there are others.
    pub fn iter(&self) -> impl Iterator<Item = (String, String, &T)> {
        let full = self.places.len() >= self.limit;
        self.values.iter().filter_map(move |(key, value)| match key {
            Some((group, device)) => {
                let group = group.map_or_else(String::new, |group| group.to_string());
                Some((group, device.to_string(), value))
            }
            None if full => Some((OTHER.to_owned(), OTHER.to_owned(), value)),
            None => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_past_the_limit_are_counted_together() {
        let mut devices: ByDevice<u64> = ByDevice::new(DeviceLimit(2));
        for n in 0..10 {
            *devices.get(Some(n), Name::new(&format!("0000:00:{n:02x}.0"))) += 1;
            *devices.get(Some(0), Name::new("0000:00:00.0")) += 1;
        }
        let all: Vec<_> = devices.iter().map(|(group, device, &count)| (group, device, count)).collect();
        let expected = [("other", "other", 8), ("0", "0000:00:00.0", 11), ("1", "0000:00:01.0", 1)];
        assert_eq!(all, expected.map(|(group, device, count)| (group.to_owned(), device.to_owned(), count)));
    }
}
