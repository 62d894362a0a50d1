//! SDP: descriptions, offers and answers.
