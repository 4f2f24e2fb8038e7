# What can be seen without a server.
program symbols 60 bash test/checks/symbols penstock.so
program folders 60 perl test/checks/folders
program texts 60 bash test/checks/texts
