//! Single rules, by example.

use super::*;
