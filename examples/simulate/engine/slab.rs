//! Numbered places that are used again, so that an event can name what may be gone by then.

/// Names a place and who was in it. Stale once that one has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id {
    index: u32,
    generation: u32,
}

/// Places for `T`.
pub struct Slab<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// Takes a place.
    pub fn insert(&mut self, value: T) -> Id {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            (self.places.len() - 1) as u32
        });
        let (generation, place) = &mut self.places[index as usize];
        *place = Some(value);
        Id {
            index,
            generation: *generation,
        }
    }

    /// Who is there, if it is still the one that `id` names.
    pub fn get_mut(&mut self, id: Id) -> Option<&mut T> {
        let (generation, place) = &mut self.places[id.index as usize];
        place.as_mut().filter(|_| *generation == id.generation)
    }

    /// Leaves the place.
    pub fn remove(&mut self, id: Id) -> Option<T> {
        let (generation, place) = &mut self.places[id.index as usize];
        if *generation != id.generation {
            return None;
        }
        let value = place.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(id.index);
        Some(value)
    }

    /// All that are there, in the order of places.
    pub fn iter(&self) -> impl Iterator<Item = (Id, &T)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(index, (generation, place))| {
                let id = Id {
                    index: index as u32,
                    generation: *generation,
                };
                place.as_ref().map(|value| (id, value))
            })
    }
}
