import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.activemq.artemis.core.config.impl.ConfigurationImpl;
import org.apache.activemq.artemis.core.config.impl.SecurityConfiguration;
import org.apache.activemq.artemis.core.security.Role;
import org.apache.activemq.artemis.core.server.JournalType;
import org.apache.activemq.artemis.core.server.embedded.EmbeddedActiveMQ;
import org.apache.activemq.artemis.core.settings.impl.AddressFullMessagePolicy;
import org.apache.activemq.artemis.core.settings.impl.AddressSettings;
import org.apache.activemq.artemis.spi.core.security.ActiveMQJAASSecurityManager;
import org.apache.activemq.artemis.spi.core.security.jaas.InVMLoginModule;

/**
 * An Artemis broker for the tests: Artemis FOLDER USER PASSWORD PORT [TLSPORT=KEYSTORE ...].
 *
 * USER may use every address; "reader" with the same password may only read. Addresses are made when they are first used,
 * but not below "strict."; those below "full." refuse messages beyond 20 kB. A client that is silent for the property "idle" (ms) is
 * taken for gone. Ends when its standard input ends.
 */
public class Artemis {
	public static void main(String[] args) throws Exception {
		Path folder = Path.of(args[0]);
		String user = args[1], password = args[2];
		ConfigurationImpl configuration = new ConfigurationImpl();
		configuration.setPersistenceEnabled(true).setJournalType(JournalType.NIO).setJournalDatasync(false)
				.setJournalDirectory(folder + "/journal").setBindingsDirectory(folder + "/bindings")
				.setLargeMessagesDirectory(folder + "/large").setPagingDirectory(folder + "/paging");
		configuration.setJournalFileSize(4 << 20).setJournalBufferTimeout_NIO(500000).setSecurityEnabled(true)
				.setJMXManagementEnabled(false).setGlobalMaxSize(100 << 20).setMaxDiskUsage(-1);
		configuration.setSecurityInvalidationInterval(0);
		configuration.addAcceptorConfiguration("plain", "tcp://127.0.0.1:" + args[3] + "?protocols=AMQP;amqpIdleTimeout="
				+ Long.getLong("idle", 60000));
		for (int i = 4; i < args.length; i++) {
			String[] tls = args[i].split("=", 2);
			configuration.addAcceptorConfiguration("tls" + i, "tcp://127.0.0.1:" + tls[0] + "?protocols=AMQP;sslEnabled=true"
					+ ";keyStoreType=PKCS12;keyStorePassword=changeit;keyStorePath=" + tls[1]);
		}

		AddressSettings settings = new AddressSettings().setAutoCreateAddresses(true).setAutoCreateQueues(true)
				.setAutoDeleteAddresses(false).setAutoDeleteQueues(false).setMaxDeliveryAttempts(-1)
				.setMaxSizeBytes(60 << 20).setAddressFullMessagePolicy(AddressFullMessagePolicy.PAGE);
		configuration.addAddressSetting("#", settings);
		configuration.addAddressSetting("strict.#", new AddressSettings().setAutoCreateAddresses(false).setAutoCreateQueues(false)
				.setAutoDeleteAddresses(false).setAutoDeleteQueues(false).setMaxDeliveryAttempts(-1));
		configuration.addAddressSetting("full.#", new AddressSettings().setAutoCreateAddresses(true).setAutoCreateQueues(true)
				.setMaxSizeBytes(20000).setAddressFullMessagePolicy(AddressFullMessagePolicy.FAIL));
		configuration.putSecurityRoles("#", java.util.Set.of(
				new Role("all", true, true, true, true, true, true, true, true, true, true, false, false),
				new Role("readers", false, true, false, false, false, false, false, true, false, false, false, false)));

		SecurityConfiguration users = new SecurityConfiguration();
		users.addUser(user, password);
		users.addRole(user, "all");
		users.addUser("reader", password);
		users.addRole("reader", "readers");
		users.addUser("guest", "guest");
		users.addRole("guest", "all");
		users.setDefaultUser("guest");

		EmbeddedActiveMQ broker = new EmbeddedActiveMQ();
		broker.setConfiguration(configuration);
		broker.setSecurityManager(new ActiveMQJAASSecurityManager(InVMLoginModule.class.getName(), users));
		broker.start();
		Files.writeString(folder.resolve("started"), "started\n");
		while (System.in.read() >= 0) {
		}
		broker.stop();
		System.exit(0);
	}
}
