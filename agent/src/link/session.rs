//! What the MQTT client is told to remember of former connections: nothing, because the outbox does.

use std::future::Future;
use std::pin::Pin;

use rumqttc::{
    AckMode, MqttOptions, PersistedAckMode, PersistedSession, SessionStore, SessionStoreError,
    SessionStoreKey,
};

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, SessionStoreError>> + Send + 'a>>;

/// Says at the beginning of each connection that nothing is under way, which makes the client take up a session
/// that the broker has kept, with its subscription and waiting commands. Without it
/// the client would refuse to publish in a session of which it has no memory.
#[derive(Debug)]
pub struct NothingUnderWay(PersistedSession);

impl NothingUnderWay {
    /// Fits these options, which must not be changed any more.
    #[must_use]
    pub fn of(options: &MqttOptions) -> NothingUnderWay {
        NothingUnderWay(PersistedSession {
            format_version: 1,
            client_id: options.client_id(),
            clean_start: options.clean_start(),
            session_expiry_interval: options.session_expiry_interval(),
            outgoing_inflight_upper_limit: options.get_outgoing_inflight_upper_limit(),
            ack_mode: match options.ack_mode() {
                AckMode::Automatic => PersistedAckMode::Automatic,
                AckMode::Manual => PersistedAckMode::Manual,
            },
            last_pkid: 0,
            last_puback: 0,
            replay: Vec::new(),
            incoming_qos2: Vec::new(),
        })
    }
}

impl SessionStore for NothingUnderWay {
    fn load<'a>(&'a self, _: &'a SessionStoreKey) -> Answer<'a, Option<PersistedSession>> {
        Box::pin(std::future::ready(Ok(Some(self.0.clone()))))
    }

    fn save<'a>(&'a self, _: &'a SessionStoreKey, _: &'a PersistedSession) -> Answer<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn clear<'a>(&'a self, _: &'a SessionStoreKey) -> Answer<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
