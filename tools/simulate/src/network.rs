//! The simulated network: how long messages take between the isolates of a region and a database.

use crate::failure::Failure;
use crate::rng::Rng;

/// A duration of simulated time, or a time since the epoch, in microseconds.
pub(crate) type Micros = u64;

/// A region with isolates, and its distance from the primary database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) name: String,
    /// The round trip to the primary database, without jitter.
    pub(crate) to_primary: Micros,
}

/// The regions, and what delays their messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SimulatedNetwork {
    pub(crate) regions: Vec<Region>,
    /// The round trip to a database in the same region, without jitter.
    pub(crate) local: Micros,
    /// How much slower a message can be at random, in percent.
    pub(crate) jitter: u64,
    pub(crate) seed: u64,
}

/// The database that a message goes to or comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatabaseLocation {
    Primary,
    Near,
}

impl SimulatedNetwork {
    /// Reads `iad=2,fra=90`: names with their round trip to the primary database, in ms.
    pub(crate) fn regions(text: &str) -> Result<Vec<Region>, Failure> {
        let wrong = || {
            Failure::new(format!(
                "--regions {text}: give names with their round trip to the primary database in ms, \
                 such as iad=2,fra=90,syd=210"
            ))
        };
        let mut regions: Vec<Region> = Vec::new();
        for part in text.split(',') {
            let (name, ms) = part.split_once('=').ok_or_else(wrong)?;
            let (name, ms) = (name.trim(), ms.trim().parse::<u32>().map_err(|_| wrong())?);
            if name.is_empty() || regions.iter().any(|other| other.name == name) {
                return Err(wrong());
            }
            regions.push(Region {
                name: name.to_owned(),
                to_primary: Micros::from(ms) * 1000,
            });
        }
        if regions.len() > usize::from(u8::MAX) {
            return Err(Failure::new("--regions: give at most 255 regions"));
        }
        Ok(regions)
    }

    /// How long one message takes, one way. `message` is the message's number, which determines its jitter.
    pub(crate) fn one_way(
        &self,
        region: usize,
        location: DatabaseLocation,
        message: u64,
    ) -> Micros {
        let least = self.without_jitter(region, location);
        let more = least * self.jitter / 100;
        least + Rng::of(self.seed, message).below(more + 1)
    }

    /// How long a message takes without jitter, one way.
    fn without_jitter(&self, region: usize, location: DatabaseLocation) -> Micros {
        let round_trip = match location {
            DatabaseLocation::Primary => self.regions.get(region).map_or(0, |one| one.to_primary),
            DatabaseLocation::Near => self.local,
        };
        round_trip / 2
    }

    /// The time by which one request can overtake another: the longest time to the primary less the shortest.
    pub(crate) fn spread(&self) -> Micros {
        let ways = || {
            (0..self.regions.len())
                .map(|region| self.without_jitter(region, DatabaseLocation::Primary))
        };
        let longest = ways().max().unwrap_or_default();
        longest + longest * self.jitter / 100 - ways().min().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::{DatabaseLocation, Micros, SimulatedNetwork};

    fn network() -> SimulatedNetwork {
        SimulatedNetwork {
            regions: SimulatedNetwork::regions("iad=2,fra=90").unwrap(),
            local: 2000,
            jitter: 50,
            seed: 7,
        }
    }

    #[test]
    fn a_list_of_regions_is_parsed_or_rejected() {
        assert_eq!(network().regions[1].to_primary, 90_000);
        for wrong in ["", "iad", "iad=", "iad=x", "=2", "iad=2,iad=3", "iad=-1"] {
            assert!(SimulatedNetwork::regions(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_message_takes_half_the_round_trip_and_up_to_the_jitter_more() {
        let network = network();
        let times: Vec<Micros> = (0..1000)
            .map(|message| network.one_way(1, DatabaseLocation::Primary, message))
            .collect();
        assert!(times.iter().all(|time| (45_000..=67_500).contains(time)));
        assert!(times.iter().any(|time| *time > 66_000));
        assert_eq!(network.spread(), 66_500);
        assert_eq!(times[3], network.one_way(1, DatabaseLocation::Primary, 3));
    }
}
