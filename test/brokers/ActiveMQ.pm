# ActiveMQ: a real ActiveMQ ("Classic") with its AMQP transport.  Debian's package has none, so it is Maven's; otherwise as Artemis.pm.
package ActiveMQ;

use strict;
use warnings;
use Artemis;
use parent -norequire, 'Artemis';

sub install { return 'install_activemq.sh'; }
sub has_tls { return 0; }

1;
