import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.apache.activemq.broker.BrokerPlugin;
import org.apache.activemq.broker.BrokerService;
import org.apache.activemq.broker.region.policy.PolicyEntry;
import org.apache.activemq.broker.region.policy.PolicyMap;
import org.apache.activemq.security.AuthenticationUser;
import org.apache.activemq.security.SimpleAuthenticationPlugin;
import org.apache.activemq.store.kahadb.KahaDBPersistenceAdapter;

/**
 * An ActiveMQ broker for the tests: ActiveMQ FOLDER USER PASSWORD PORT. Ends when its standard input ends.
 */
public class ActiveMQ {
	public static void main(String[] args) throws Exception {
		Path folder = Path.of(args[0]);
		BrokerService broker = new BrokerService();
		KahaDBPersistenceAdapter store = new KahaDBPersistenceAdapter();
		SimpleAuthenticationPlugin login = new SimpleAuthenticationPlugin(
				List.of(new AuthenticationUser(args[1], args[2], "all")));
		PolicyEntry everything = new PolicyEntry();
		PolicyMap policies = new PolicyMap();

		store.setDirectory(new File(folder + "/kahadb"));
		store.setJournalMaxFileLength(8 << 20);
		// kill -9 of the process loses nothing that the kernel has; power cuts are not tested
		store.setJournalDiskSyncStrategy("never");
		login.setAnonymousAccessAllowed(true);
		everything.setQueue(">");
		policies.setPolicyEntries(List.of(everything));
		broker.setBrokerName("penstock");
		broker.setDataDirectory(folder + "/data");
		broker.setPersistenceAdapter(store);
		broker.setDestinationPolicy(policies);
		broker.setPlugins(new BrokerPlugin[] {login});
		broker.setUseJmx(false);
		broker.setUseShutdownHook(false);
		broker.setAdvisorySupport(false);
		broker.getSystemUsage().getMemoryUsage().setLimit(64 << 20);
		broker.getSystemUsage().getStoreUsage().setLimit(1L << 30);
		broker.getSystemUsage().getTempUsage().setLimit(1L << 30);
		broker.addConnector("amqp://127.0.0.1:" + args[3] + "?transport.transformer=native");
		broker.start();
		broker.waitUntilStarted();
		Files.writeString(folder.resolve("started"), "started\n");
		while (System.in.read() >= 0) {
		}
		broker.stop();
		System.exit(0);
	}
}
