//! Namespace.
