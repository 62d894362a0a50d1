//! Descriptions as endpoints write them, and properties of ours.
