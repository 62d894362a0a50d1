//! Subjects that break one rule on purpose, to show that a checker reports it.
