//! guest programs
