//! Clients of message brokers and buses. See [`super`] for how rows are read.

use super::super::{Known, created};

const AMQP: &[&str] = &["github.com/rabbitmq/amqp091-go", "github.com/streadway/amqp"];
const DBUS: &[&str] = &["github.com/godbus/dbus"];
const KAFKA_GO: &[&str] = &["github.com/segmentio/kafka-go"];
const NATS: &[&str] = &["github.com/nats-io/nats.go"];
const NSQ: &[&str] = &["github.com/nsqio/go-nsq"];
const PAHO: &[&str] = &["github.com/eclipse/paho.mqtt.golang"];
const PULSAR: &[&str] = &["github.com/apache/pulsar-client-go/pulsar"];
const SARAMA: &[&str] = &["github.com/IBM/sarama", "github.com/Shopify/sarama"];

pub(super) const ROWS: &[Known] = &[
    // paho.mqtt.golang 1.1.1 to 1.5.0, router.go: the user's handlers run on one of two goroutines.
    created("MQTT client", "mqtt.Client.Disconnect", PAHO, &["(*router).matchAndDispatch"])
        .standing_in(&["(*router).matchAndDispatch"]),
    // The same: client.go, Connect, reconnect (until 1.2.0), startCommsWorkers (1.3.0 and newer); net.go, the others.
    created(
        "MQTT client",
        "mqtt.Client.Disconnect",
        PAHO,
        &[
            "(*client).Connect",
            "(*client).reconnect",
            "(*client).startCommsWorkers",
            "startComms",
            "startIncoming",
            "startIncomingComms",
            "startOutgoingComms",
        ],
    ),
    // paho.golang 0.10.0 to 0.22.0: autopaho/auto.go.
    created(
        "MQTT connection of autopaho",
        "(*autopaho.ConnectionManager).Disconnect",
        &["github.com/eclipse/paho.golang/autopaho"],
        &["NewConnection"],
    ),
    // paho.golang 0.9.0 to 0.22.0: paho/client.go, Connect, NewClient (0.10.0 to 0.12.0); paho/pinger.go (0.22.0).
    created(
        "MQTT client",
        "(*paho.Client).Disconnect",
        &["github.com/eclipse/paho.golang/paho"],
        &["(*Client).Connect", "NewClient", "(*DefaultPinger).Run"],
    ),
    // nats.go 1.30.2, 1.40.0, 1.53.1: jetstream/pull.go, ordered.go, push.go (1.53.1).
    created(
        "JetStream consumer",
        "jetstream.ConsumeContext.Stop",
        &["github.com/nats-io/nats.go/jetstream"],
        &["(*pullConsumer).Consume", "(*orderedConsumer).Consume", "(*pushConsumer).Consume"],
    ),
    // The same: jetstream/pull.go.
    created(
        "JetStream consumer",
        "jetstream.MessagesContext.Stop",
        &["github.com/nats-io/nats.go/jetstream"],
        &["(*pullConsumer).Messages"],
    ),
    // nats.go 1.7.2 (subscribe), 1.11.0 to 1.53.1 (subscribeLocked): nats.go, one for each subscription; 1.20.0 and
    // newer: js.go.
    created(
        "NATS subscription",
        "(*nats.Subscription).Unsubscribe",
        NATS,
        &["(*Conn).subscribe", "(*Conn).subscribeLocked", "(*js).subscribe"],
    ),
    // nats.go 1.7.2 to 1.53.1: nats.go.
    created(
        "NATS connection",
        "(*nats.Conn).Close",
        NATS,
        &["Options.Connect", "(*Conn).processConnectInit", "(*Conn).processOpErr", "(*Conn).connect"],
    ),
    // kafka-go 0.3.10, 0.4.8, 0.4.30, 0.4.50: reader.go.
    created(
        "Kafka reader",
        "(*kafka.Reader).Close",
        KAFKA_GO,
        &["NewReader", "(*Reader).start", "(*Reader).activateReadLag"],
    ),
    // The same: consumergroup.go.
    created("Kafka consumer group", "(*kafka.ConsumerGroup).Close", KAFKA_GO, &["NewConsumerGroup"]),
    // The same: writer.go, NewWriter and newWriter (0.3.10), newWriteBatch (0.4.8), spawn (0.4.30 and newer).
    created(
        "Kafka writer",
        "(*kafka.Writer).Close",
        KAFKA_GO,
        &["NewWriter", "newWriter", "(*Writer).newWriteBatch", "(*Writer).spawn"],
    ),
    // kafka-go 0.4.8, 0.4.30, 0.4.50: transport.go.
    created(
        "Kafka connection",
        "(*kafka.Transport).CloseIdleConnections",
        KAFKA_GO,
        &["(*Transport).grabPool", "(*connGroup).connect"],
    ),
    // sarama 1.22.1, 1.29.0, 1.38.1, 1.43.3, 1.60.1: sync_producer.go.
    created("Kafka producer", "sarama.SyncProducer.Close", SARAMA, &["newSyncProducerFromAsyncProducer"]),
    // The same: async_producer.go.
    created(
        "Kafka producer",
        "sarama.AsyncProducer.Close",
        SARAMA,
        &[
            "newAsyncProducer",
            "(*asyncProducer).newTopicProducer",
            "(*asyncProducer).newPartitionProducer",
            "(*asyncProducer).newBrokerProducer",
        ],
    ),
    // The same: consumer.go.
    created(
        "Kafka consumer of a partition",
        "sarama.PartitionConsumer.Close",
        SARAMA,
        &["(*consumer).ConsumePartition", "(*consumer).newBrokerConsumer"],
    ),
    // The same: consumer_group_session.go; the user's handler runs on another goroutine of that function.
    created("Kafka consumer group", "sarama.ConsumerGroup.Close", SARAMA, &["newConsumerGroupSession"])
        .standing_in(&["(*consumerGroupSession).heartbeatLoop"]),
    // The same: offset_manager.go.
    created("Kafka offset manager", "sarama.OffsetManager.Close", SARAMA, &["newOffsetManagerFromClient"]),
    // The same: client.go, broker.go.
    created("Kafka client", "sarama.Client.Close", SARAMA, &["NewClient", "(*Broker).Open"]),
    // franz-go 1.16.1, 1.21.5: pkg/kgo/client.go.
    created("Kafka client", "(*kgo.Client).Close", &["github.com/twmb/franz-go/pkg/kgo"], &["NewClient"]),
    // amqp091-go 1.1.0 to 1.14.0 and streadway/amqp (Debian 0.0~git20200716): consumers.go, channel.go.
    created(
        "AMQP consumer",
        "(*amqp.Channel).Cancel",
        AMQP,
        &["(*consumers).add", "(*Channel).ConsumeWithContext"],
    ),
    // The same: connection.go.
    created("AMQP connection", "(*amqp.Connection).Close", AMQP, &["Open", "(*Connection).openTune"]),
    // go-nsq 1.0.8, 1.1.0: consumer.go.
    created(
        "NSQ consumer",
        "(*nsq.Consumer).Stop",
        NSQ,
        &["NewConsumer", "(*Consumer).AddConcurrentHandlers", "(*Consumer).ConnectToNSQLookupd"],
    ),
    // The same: producer.go.
    created("NSQ producer", "(*nsq.Producer).Stop", NSQ, &["(*Producer).connect"]),
    // pulsar-client-go 0.13.1, 0.21.0: pulsar/producer_partition.go.
    created(
        "Pulsar producer",
        "pulsar.Producer.Close",
        PULSAR,
        &["newPartitionProducer", "(*producer).runBackgroundPartitionDiscovery"],
    ),
    // The same: pulsar/consumer_partition.go (startDispatcher since 0.21.0), consumer_impl.go, the trackers and routers.
    created(
        "Pulsar consumer",
        "pulsar.Consumer.Close",
        PULSAR,
        &[
            "newPartitionConsumer",
            "(*partitionConsumer).runEventsLoop",
            "(*partitionConsumer).startDispatcher",
            "(*consumer).runBackgroundPartitionDiscovery",
            "newNegativeAcksTracker",
            "newAckGroupingTracker",
            "newDlqRouter",
            "newRetryRouter",
        ],
    ),
    // The same: pulsar/internal/connection.go, connection_pool.go.
    created(
        "Pulsar client",
        "pulsar.Client.Close",
        &["github.com/apache/pulsar-client-go/pulsar/internal"],
        &["NewConnectionPool", "(*connection).start", "(*connection).run"],
    ),
    // godbus 5.0.3, 5.2.2: default_handler.go; nobody reads the channel given to Signal.
    created(
        "D-Bus signal that nobody takes",
        "(*dbus.Conn).RemoveSignal",
        DBUS,
        &["(*signalChannelData).deliver"],
    ),
    // The same: conn.go, auth.go.
    created("D-Bus connection", "(*dbus.Conn).Close", DBUS, &["newConn", "(*Conn).Auth"]),
];
