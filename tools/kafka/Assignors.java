import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;

import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.Assignment;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.GroupSubscription;
import org.apache.kafka.clients.consumer.ConsumerPartitionAssignor.Subscription;
import org.apache.kafka.clients.consumer.CooperativeStickyAssignor;
import org.apache.kafka.clients.consumer.RangeAssignor;
import org.apache.kafka.clients.consumer.RoundRobinAssignor;
import org.apache.kafka.clients.consumer.StickyAssignor;
import org.apache.kafka.common.Cluster;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;

/**
 * Asks the assignors of kafka-clients. One line of JSON in is a group, one line out is what each
 * assignor answers: {name: {member id: [[topic, partition], ...]}}, or {name: "what it threw"}.
 *
 * A group: {"partitions": {topic: count}, "members": [{"id", "instance", "topics": [topic, ...],
 * "owned": [[topic, partition], ...], "generation"}, ...]}, a generation of -1 being none.
 */
public class Assignors {
    private static final ObjectMapper JSON = new ObjectMapper();

    public static void main(String[] arguments) throws Exception {
        System.setProperty("org.slf4j.simpleLogger.defaultLogLevel", "off");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            JsonNode group = JSON.readTree(line);
            ObjectNode answer = JSON.createObjectNode();
            // new ones each time: the sticky ones remember the generation of their last call
            List<ConsumerPartitionAssignor> assignors = List.of(new RangeAssignor(),
                new RoundRobinAssignor(), new StickyAssignor(), new CooperativeStickyAssignor());
            for (ConsumerPartitionAssignor assignor : assignors) {
                answer.set(assignor.name(), ask(assignor, group));
            }
            out.println(answer);
            out.flush();
        }
    }

    private static JsonNode ask(ConsumerPartitionAssignor assignor, JsonNode group) {
        Map<String, Subscription> subscriptions = new LinkedHashMap<>();
        for (JsonNode member : group.get("members")) {
            subscriptions.put(member.get("id").asText(), subscription(assignor, member));
        }
        Map<String, Assignment> assignments;
        try {
            assignments = assignor.assign(cluster(group.get("partitions")),
                new GroupSubscription(subscriptions)).groupAssignment();
        } catch (RuntimeException error) {
            return JSON.getNodeFactory().textNode(error.toString());
        }
        ObjectNode answer = JSON.createObjectNode();
        assignments.forEach((id, assignment) -> {
            ArrayNode partitions = answer.putArray(id);
            assignment.partitions().forEach(one ->
                partitions.addArray().add(one.topic()).add(one.partition()));
        });
        return answer;
    }

    /** What a consumer says when it joins: the sticky assignor has it in bytes of its own. */
    @SuppressWarnings("removal")
    private static Subscription subscription(ConsumerPartitionAssignor assignor, JsonNode member) {
        List<String> topics = new ArrayList<>();
        member.get("topics").forEach(topic -> topics.add(topic.asText()));
        List<TopicPartition> owned = new ArrayList<>();
        member.get("owned").forEach(one ->
            owned.add(new TopicPartition(one.get(0).asText(), one.get(1).asInt())));
        int generation = member.get("generation").asInt();
        String id = member.get("id").asText();
        Optional<String> instance = Optional.ofNullable(member.get("instance").textValue());

        ByteBuffer userData = null;
        if (assignor instanceof StickyAssignor && !(owned.isEmpty() && generation < 0)) {
            StickyAssignor before = new StickyAssignor();
            before.onAssignment(new Assignment(owned),
                new ConsumerGroupMetadata("group", generation, id, instance));
            userData = before.subscriptionUserData(new HashSet<>(topics));
        }
        Subscription subscription =
            new Subscription(topics, userData, owned, generation, Optional.empty());
        subscription.setGroupInstanceId(instance);
        return subscription;
    }

    private static Cluster cluster(JsonNode counts) {
        Node node = new Node(0, "localhost", 9092);
        Node[] nodes = {node};
        List<PartitionInfo> partitions = new ArrayList<>();
        counts.properties().forEach(topic -> {
            for (int number = 0; number < topic.getValue().asInt(); number++) {
                partitions.add(new PartitionInfo(topic.getKey(), number, node, nodes, nodes));
            }
        });
        return new Cluster("cluster", List.of(node), partitions, new HashSet<>(), new HashSet<>());
    }
}
