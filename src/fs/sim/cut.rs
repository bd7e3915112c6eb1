//! Power cuts: which states of the disk are possible, and how one is chosen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::disk::{
    DirState, Disk, FileState, Node, ROOT, SECTOR_BYTES, Sector, put_sector, sector_of,
};
use super::machine::{Seeded, SimFs};

/// All states that a power cut may leave, numbered from 0: any of its versions for each sector that
/// is not certain, any of its sizes for each file, any subset of the directory operations that are
/// not certain.
///
/// Number 0 is the state with nothing but what is durable. Torn sectors are left to
/// [`random`](PowerCuts::random).
#[derive(Debug, Clone)]
pub struct PowerCuts {
    pub(super) disk: Arc<Disk>,
    pub(super) seed: u64,
    choices: Vec<Choice>,
}

#[derive(Debug, Clone)]
enum Choice {
    /// Version 0 is the durable one.
    Sector {
        file: Node,
        at: u64,
        versions: Vec<Sector>,
    },
    Size {
        file: Node,
        sizes: Vec<u64>,
    },
    /// Whether the operation took place.
    Name {
        dir: Node,
        operation: usize,
    },
}

impl Choice {
    fn count(&self) -> u128 {
        match self {
            Choice::Sector { versions, .. } => versions.len() as u128,
            Choice::Size { sizes, .. } => sizes.len() as u128,
            Choice::Name { .. } => 2,
        }
    }
}

impl SimFs {
    /// Returns all states that a power cut may leave. This disk is not changed.
    #[must_use]
    pub fn power_cuts(&self) -> PowerCuts {
        let machine = self.machine();
        PowerCuts::new(machine.disk.clone(), machine.seed.wrapping_add(1))
    }
}

impl PowerCuts {
    pub(super) fn new(disk: Disk, seed: u64) -> PowerCuts {
        let mut choices = Vec::new();
        for (dir, state) in &disk.dirs {
            choices.extend(
                (0..state.unsure.len()).map(|operation| Choice::Name { dir: *dir, operation }),
            );
        }
        for (file, state) in &disk.files {
            let sizes =
                distinct([state.durable_bytes].into_iter().chain(state.sizes.iter().copied()));
            if sizes.len() > 1 {
                choices.push(Choice::Size { file: *file, sizes });
            }
            for (at, unsure) in &state.unsure {
                let durable = sector_of(&state.durable, *at);
                let versions =
                    distinct([durable].into_iter().chain(unsure.versions.iter().cloned()));
                if versions.len() > 1 {
                    choices.push(Choice::Sector { file: *file, at: *at, versions });
                }
            }
        }
        PowerCuts { disk: Arc::new(disk), seed, choices }
    }

    /// Returns how many states there are, or `u128::MAX` if there are more than that.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.choices.iter().fold(1, |count, choice| u128::saturating_mul(count, choice.count()))
    }

    /// Returns the disk in state `number`, which is below [`count`](PowerCuts::count), after the
    /// machine has started again.
    #[must_use]
    pub fn state(&self, mut number: u128) -> SimFs {
        self.build(|choice| {
            let chosen = number % choice.count();
            number /= choice.count();
            (usize::try_from(chosen).expect("below the count of one choice"), None)
        })
    }

    /// Returns the disk in a state that `seed` draws. One sector in 16 that has several versions is
    /// torn: it begins as one version and ends as another.
    #[must_use]
    pub fn random(&self, seed: u64) -> SimFs {
        let mut random = Seeded::new(seed);
        // Five kinds of states are equally likely: nothing new, everything new, nearly everything,
        // nearly nothing, any mixture.
        let bias = random.below(5);
        self.build(|choice| {
            let count = u64::try_from(choice.count()).unwrap_or(u64::MAX);
            let chosen = match bias {
                0 => 0,
                1 => count - 1,
                2 if random.below(8) > 0 => count - 1,
                3 if random.below(8) > 0 => 0,
                _ => random.below(count),
            };
            let torn = (random.below(16) == 0)
                .then(|| (random.below(count), random.below(SECTOR_BYTES as u64)));
            let index = |value: u64| usize::try_from(value).expect("below the count of one choice");
            (index(chosen), torn.map(|(other, at)| (index(other), index(at))))
        })
    }

    fn build(&self, mut choose: impl FnMut(&Choice) -> (usize, Option<(usize, usize)>)) -> SimFs {
        let mut files: BTreeMap<Node, (Arc<Vec<u8>>, u64)> = self
            .disk
            .files
            .iter()
            .map(|(node, file)| (*node, (file.durable.clone(), file.durable_bytes)))
            .collect();
        let mut names: BTreeMap<Node, _> =
            self.disk.dirs.iter().map(|(node, dir)| (*node, dir.durable.clone())).collect();
        for choice in &self.choices {
            let (chosen, torn) = choose(choice);
            match choice {
                Choice::Name { dir, operation } if chosen == 1 => {
                    let names = names.get_mut(dir).expect("every directory is there");
                    self.disk.dirs[dir].unsure[*operation].change.apply(names);
                }
                Choice::Name { .. } => {}
                Choice::Size { file, sizes } => {
                    files.get_mut(file).expect("every file is there").1 = sizes[chosen];
                }
                Choice::Sector { file, at, versions } => {
                    let mut sector = versions[chosen];
                    if let Some((other, split)) = torn {
                        sector[split..].copy_from_slice(&versions[other][split..]);
                    }
                    let bytes = &mut files.get_mut(file).expect("every file is there").0;
                    if sector != sector_of(bytes, *at) {
                        put_sector(Arc::make_mut(bytes), *at, &sector);
                    }
                }
            }
        }
        SimFs::from_disk(start_again(&self.disk, files, names), self.seed)
    }
}

/// Returns the disk with these bytes and names, and with nothing unsure. Files without a name are
/// gone.
pub(super) fn start_again(
    disk: &Disk,
    mut files: BTreeMap<Node, (Arc<Vec<u8>>, u64)>,
    mut names: BTreeMap<Node, BTreeMap<std::ffi::OsString, Node>>,
) -> Disk {
    let mut disk = disk.without_files();
    let mut unvisited = vec![ROOT];
    let mut seen = BTreeSet::new();
    while let Some(node) = unvisited.pop() {
        if !seen.insert(node) {
            continue;
        }
        if let Some(names) = names.remove(&node) {
            unvisited.extend(names.values());
            disk.dirs.insert(
                node,
                DirState { visible: names.clone(), durable: names, unsure: Vec::new() },
            );
        } else if let Some((mut bytes, size)) = files.remove(&node) {
            let size = usize::try_from(size).expect("files fit into memory");
            if bytes.len() != size {
                Arc::make_mut(&mut bytes).resize(size, 0);
            }
            disk.files.insert(node, FileState::settled(bytes));
        }
    }
    disk
}

pub(super) fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut distinct = Vec::new();
    for value in values {
        if !distinct.contains(&value) {
            distinct.push(value);
        }
    }
    distinct
}
