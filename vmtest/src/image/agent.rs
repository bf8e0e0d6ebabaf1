//! The guest agent, as it goes into images.

/// The name of the agent's file in guests.
pub(super) const NAME: &str = "vmtest-agent";

/// The agent's executable.
pub(super) fn bytes() -> &'static [u8] {
    vmtest_agent::AGENT
}

/// What of the agent goes into content keys.
pub(super) fn key() -> &'static str {
    vmtest_agent::AGENT_KEY
}
