//! SIP syntax from outside: the torture messages, properties, and rsip as a second opinion.

mod agreement;
mod corpus;
mod properties;
mod rsip_oracle;
mod torture;
