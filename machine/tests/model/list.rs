// SPDX-License-Identifier: Apache-2.0
//! List: a few values in order, without allocation, so that copying a world is cheap.

use std::fmt;

/// At most `N` values. One more is an error in the model.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct List<T, const N: usize>([Option<T>; N]);

impl<T: Copy, const N: usize> List<T, N> {
    pub(crate) const EMPTY: Self = Self([None; N]);

    pub(crate) fn len(&self) -> usize {
        self.0.iter().flatten().count()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first().is_none()
    }

    pub(crate) fn first(&self) -> Option<T> {
        self.0.first().copied().flatten()
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &T> {
        self.0.iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flatten()
    }

    pub(crate) fn push(&mut self, value: T) {
        let free = self.0.iter_mut().find(|place| place.is_none());
        *free.expect("the list is long enough") = Some(value);
    }

    /// The new value comes first.
    pub(crate) fn push_front(&mut self, value: T) {
        assert!(self.0[N - 1].is_none(), "the list is long enough");
        self.0.rotate_right(1);
        self.0[0] = Some(value);
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let first = self.0.first_mut()?.take();
        self.0.rotate_left(1);
        first
    }

    pub(crate) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        *self = self.iter().copied().filter(keep).collect();
    }
}

impl<T: Copy + Ord, const N: usize> List<T, N> {
    pub(crate) fn sort(&mut self) {
        let length = self.len();
        self.0[..length].sort_unstable();
    }
}

impl<T: Copy, const N: usize> FromIterator<T> for List<T, N> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut list = Self::EMPTY;
        values.into_iter().for_each(|value| list.push(value));
        list
    }
}

impl<T: fmt::Debug, const N: usize> fmt::Debug for List<T, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().flatten()).finish()
    }
}
