//! Names for sockets that outlive the sockets: slot plus generation.
//!
//! The kernel's own name for a socket, the descriptor, is reused the moment it is closed, so an event or a
//! callback that still carries it may reach a stranger. A [`Token`] cannot: it names a slot of a table *and*
//! the generation of its occupant, and a slot's generation goes up when the occupant leaves.
//!
//! ```text
//!            slot 0            slot 1            slot 2
//!        ┌──────────────┬─────────────────┬──────────────┐
//!  table │ gen 7  value │ gen 3  (vacant) │ gen 1  value │     token 1·2 is stale: slot 1 is at 3
//!        └──────────────┴────────┬────────┴──────────────┘
//!                 first vacant ──┘
//! ```
//!
//! The rule that is kept: a token that was given out once never finds a second occupant. A slot whose
//! generations are used up (after 2³² occupants) is retired and not handed out again.

use std::fmt;

/// The name of one socket of one reactor: it is stale, and reaches nobody, once that socket is gone.
///
/// Tokens are plain data: copy them, keep them, send them to another thread. They are also what epoll carries
/// as its user data. A token means nothing to another reactor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Token {
    /// The generation above, the slot below: one number to compare, and what epoll carries.
    bits: u64,
}

impl Token {
    /// Names no socket: the table never gets as far as this slot.
    pub(crate) const NOBODY: Token = Token { bits: u64::MAX };

    #[inline]
    pub(crate) fn from_bits(bits: u64) -> Token {
        Token { bits }
    }

    #[inline]
    pub(crate) fn bits(self) -> u64 {
        self.bits
    }

    #[inline]
    pub(crate) fn slot(self) -> usize {
        self.bits as u32 as usize
    }

    fn new(slot: u32, generation: u32) -> Token {
        Token { bits: u64::from(generation) << 32 | u64::from(slot) }
    }

    #[inline]
    fn generation(self) -> u32 {
        (self.bits >> 32) as u32
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}·{}", self.slot(), self.generation())
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// End of the list of vacant slots; also the bound on slots.
const NONE: u32 = u32::MAX;

/// Values by [`Token`]: constant-time insert, look-up and remove.
#[derive(Debug)]
pub(crate) struct Table<T> {
    slots: Vec<Slot<T>>,
    first_vacant: u32,
    len: usize,
}

#[derive(Debug)]
struct Slot<T> {
    /// Of the occupant, or of the next one when vacant.
    generation: u32,
    /// Meaningful only while vacant.
    next_vacant: u32,
    value: Option<T>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { slots: Vec::new(), first_vacant: NONE, len: 0 }
    }
}

impl<T> Table<T> {
    /// Takes the most recently vacated slot, since its memory is the likeliest to be in the cache.
    ///
    /// # Panics
    /// When 2³² − 1 slots are in use, which is past any limit on descriptors or memory.
    pub fn insert(&mut self, value: T) -> Token {
        self.len += 1;
        if self.first_vacant == NONE {
            let slot = u32::try_from(self.slots.len()).expect("fewer than 2^32 slots");
            assert!(slot != NONE, "fewer than 2^32 - 1 slots");
            self.slots.push(Slot { generation: 0, next_vacant: NONE, value: Some(value) });
            return Token::new(slot, 0);
        }
        let index = self.first_vacant;
        let slot = &mut self.slots[index as usize];
        debug_assert!(slot.value.is_none(), "a slot on the vacant list is vacant");
        self.first_vacant = slot.next_vacant;
        slot.value = Some(value);
        Token::new(index, slot.generation)
    }

    /// Vacates the slot, so that `token` is stale from now on. `None` if it was stale already.
    pub fn remove(&mut self, token: Token) -> Option<T> {
        let slot = self.slots.get_mut(token.slot())?;
        if slot.generation != token.generation() {
            return None;
        }
        let value = slot.value.take()?;
        self.len -= 1;
        // A wrapped generation would bring the first occupant's tokens back to life: retire the slot instead.
        // Its generation stays at the last one, whose token finds no value here.
        if let Some(next) = slot.generation.checked_add(1) {
            slot.generation = next;
            slot.next_vacant = self.first_vacant;
            self.first_vacant = token.slot() as u32;
        }
        Some(value)
    }

    #[inline]
    pub fn get(&self, token: Token) -> Option<&T> {
        match self.slots.get(token.slot()) {
            Some(slot) if slot.generation == token.generation() => slot.value.as_ref(),
            _ => None,
        }
    }

    #[inline]
    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        match self.slots.get_mut(token.slot()) {
            Some(slot) if slot.generation == token.generation() => slot.value.as_mut(),
            _ => None,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Every occupant, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let token = Token::new(index as u32, slot.generation);
            slot.value.as_ref().map(|value| (token, value))
        })
    }
}

/// What holds of any table, for the tests and for a fuzzer.
#[cfg(any(test, fuzzing))]
pub(crate) mod property {
    use super::*;
    use std::collections::HashMap;

    /// Against a map that never forgets: an old token finds nothing, a live one finds its own value. A step inserts,
    /// or removes one of the tokens ever given.
    pub fn the_table_agrees_with_a_map_that_never_reuses_names(steps: impl IntoIterator<Item = (bool, usize)>) {
        let mut table = Table::default();
        let mut model: HashMap<Token, usize> = HashMap::new();
        let mut given: Vec<Token> = Vec::new();
        for (step, (insert, pick)) in steps.into_iter().enumerate() {
            if insert || given.is_empty() {
                let token = table.insert(step);
                assert!(model.insert(token, step).is_none(), "a token was given twice");
                given.push(token);
            } else {
                let token = given[pick % given.len()];
                assert_eq!(table.remove(token), model.remove(&token));
            }
            assert_eq!(table.len(), model.len());
            for token in &given {
                assert_eq!(table.get(*token), model.get(token));
            }
        }
        assert_eq!(table.iter().count(), model.len());
    }
}

#[cfg(test)]
mod tests {
    use super::property::the_table_agrees_with_a_map_that_never_reuses_names;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reused_slot_does_not_answer_to_the_old_token() {
        let mut table = Table::default();
        let old = table.insert("old");
        assert_eq!(table.remove(old), Some("old"));
        let new = table.insert("new");
        assert_eq!(new.slot(), old.slot());
        assert_eq!(table.get(old), None);
        assert_eq!(table.get_mut(old), None);
        assert_eq!(table.remove(old), None);
        assert_eq!(table.get(new), Some(&"new"));
    }

    #[test]
    fn a_slot_whose_generations_are_used_up_is_retired() {
        let mut table = Table::default();
        let first = table.insert(0);
        table.slots[first.slot()].generation = u32::MAX;
        let last = Token::new(first.slot() as u32, u32::MAX);
        assert_eq!(table.remove(last), Some(0));
        assert_eq!(table.get(last), None);
        assert_eq!(table.remove(last), None);
        let next = table.insert(1);
        assert_ne!(next.slot(), first.slot());
    }

    #[test]
    fn a_token_survives_the_trip_through_the_kernels_user_data() {
        let token = Token::new(0xdead_beef, 0x0123_4567);
        assert_eq!(Token::from_bits(token.bits()), token);
    }

    #[test]
    fn a_vacant_slot_costs_sixteen_bytes_for_boxed_values() {
        assert_eq!(size_of::<Slot<Box<u64>>>(), 16);
    }

    proptest! {
        #[test]
        fn any_steps_agree(steps in prop::collection::vec((any::<bool>(), any::<usize>()), 1..400)) {
            the_table_agrees_with_a_map_that_never_reuses_names(steps);
        }
    }
}
